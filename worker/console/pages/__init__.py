"""The pages, each group of them in a module: what is asked, and which template shows it."""

from worker.console.pages import accounts, acting, audit, entrance, explaining, letters, overview, replays

#: All of them.
PAGES = (
    entrance.page,
    overview.page,
    letters.page,
    acting.page,
    replays.page,
    accounts.page,
    explaining.page,
    audit.page,
)
