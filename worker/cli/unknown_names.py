"""Warning of variables that look like settings and are none: a misspelled one changes nothing, silently."""

import logging

from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent
from worker.settings import given_variables

log = logging.getLogger(__name__)


def warn_of_unknown_names() -> None:
    """Log a line for each unknown variable with our prefix, with the name that was probably meant."""
    environment, lines = given_variables()
    if not environment and not lines:
        return
    from worker.settings_report import unknown_names

    for unknown in unknown_names([*environment, *lines]):
        log.warning("%s", unknown, extra=log_fields.fields(LogEvent.UNKNOWN_SETTING, field=unknown.name))
