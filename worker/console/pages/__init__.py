"""The pages, each group in a module, which reads the request and chooses the template."""

from worker.console.pages import accounts, acting, audit, entrance, explaining, overview, replays
from worker.console.pages import dead_letters as dead_letters

#: All of them.
PAGES = (
    entrance.page,
    overview.page,
    dead_letters.page,
    acting.page,
    replays.page,
    accounts.page,
    explaining.page,
    audit.page,
)
