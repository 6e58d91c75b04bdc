"""Identity: the names by which records and log lines say who acts."""

import getpass
import os
import socket
from secrets import token_hex


def process_name() -> str:
    """Return the name of this process for people: its host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def runner_name(prefix: str = "") -> str:
    """Return a name that no other runner has, in this process or another; ``prefix`` says where it runs."""
    return ":".join(part for part in (prefix, process_name(), token_hex(4)) if part)


def login_name() -> str | None:
    """Return the name of the user who runs this process; None where the system has no name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have none; each system says it its way
        return None
