"""Pages of the console; each module reads the request and chooses the template."""

from worker.console.pages import (
    accounts,
    activity_log,
    dead_letter_actions,
    dead_letters,
    explain,
    health,
    old_paths,
    overview,
    payments,
    replays,
    session,
    workers,
)

PAGES = (
    session.page,
    overview.page,
    dead_letters.page,
    dead_letter_actions.page,
    replays.page,
    payments.page,
    accounts.page,
    explain.page,
    workers.page,
    activity_log.page,
    old_paths.page,
    health.page,
)
