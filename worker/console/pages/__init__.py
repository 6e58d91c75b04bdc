"""Pages of the console; each module reads the request and chooses the template."""

from worker.console.pages import (
    accounts,
    activity_log,
    dead_letter_actions,
    dead_letters,
    explain,
    health,
    old_paths,
    operations,
    overview,
    payments,
    replays,
    reports,
    reverse_runs,
    session,
    set_edits,
    workers,
)

PAGES = (
    session.page,
    overview.page,
    dead_letters.page,
    dead_letter_actions.page,
    set_edits.page,
    replays.page,
    payments.page,
    operations.page,
    reverse_runs.page,
    reports.page,
    accounts.page,
    explain.page,
    workers.page,
    activity_log.page,
    old_paths.page,
    health.page,
)
