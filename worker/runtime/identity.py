"""Identity: the names by which records and log lines say who acts."""

import getpass
import os
import socket
from secrets import token_hex
from typing import Self


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


def system_user() -> str | None:
    """Return the user that runs this process, as the system knows it, whatever the environment says.

    One without a name is its number; None where the system has no users.
    """
    try:
        import pwd
    except ImportError:  # a system without such users
        return login_name()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


class Operator(str):
    """Name of who acts. ``os_user`` and ``host`` are where: None in the console, and for programs."""

    os_user: str | None = None
    host: str | None = None

    @classmethod
    def here(cls, name: str) -> Self:
        """Return the actor ``name``, who has called this process."""
        actor = cls(name)
        actor.os_user, actor.host = system_user(), socket.gethostname()
        return actor

    def named(self, name: str) -> "Operator":
        """Return the same actor with the name as it is stored."""
        actor = Operator(name)
        actor.os_user, actor.host = self.os_user, self.host
        return actor
