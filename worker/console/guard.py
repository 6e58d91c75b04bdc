"""Who stands at the console, and from where it may be reached.

With people in a file everybody signs in. Without, the console serves nobody but this machine: it is bound to
the loopback interface, refuses names that are not this machine's (a web site can have its own name lead here)
and what comes through a proxy; whoever reaches it acts as the user of the operating system that runs it.
"""

import getpass
import ipaddress
import os
from dataclasses import dataclass

from flask import Request, session

from worker.console.attempts import Attempts
from worker.console.people import People, Person, Role

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_NAME, _MARK = "person", "mark"


class Guard:
    """Tells who a request comes from. ``read_only`` makes a viewer of everybody."""

    def __init__(self, people: People | None, host: str, *, read_only: bool = False) -> None:
        self.people = people
        self.read_only = read_only
        self._host = host
        self._own = Person(os_user(), Role.VIEWER if read_only else Role.OPERATOR)
        self.by_name = Attempts(most=5, within_s=60)
        self.by_address = Attempts(most=30, within_s=60)

    @property
    def asks_for_passwords(self) -> bool:
        """Whether one has to sign in."""
        return self.people is not None

    def person(self) -> Person | None:
        """Who the present request comes from; None for somebody who has not signed in."""
        if self.people is None:
            return self._own
        name = session.get(_NAME)
        person = self.people.person(name) if isinstance(name, str) else None
        if person is None or session.get(_MARK) != person.mark:
            return None
        return Person(person.name, Role.VIEWER, person.mark) if self.read_only else person

    def sign_in(self, person: Person) -> None:
        """Remember ``person`` in the session, and nothing of what was in it before."""
        session.clear()
        session.permanent = True
        session[_NAME], session[_MARK] = person.name, person.mark

    def refusal(self, request: Request) -> str | None:
        """Why the request is not served at all; None where it may be."""
        if self.asks_for_passwords:
            return None
        if not _is_own_name(request.host, self._host):
            return f"This console serves this machine alone, and not the name {request.host!r}."
        if any(name in request.headers for name in _FORWARDED):
            return (
                "This console has no users, so that it can't be reached through a proxy: "
                "make some with `billing-worker console user NAME`."
            )
        return None


@dataclass(frozen=True, slots=True)
class Address:
    """Where the console listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """For people to open."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's own address; a name is one only where it is localhost."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def os_user() -> str:
    """The user of the operating system, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _is_own_name(named: str, bound: str) -> bool:
    host = named.rsplit(":", 1)[0] if not named.endswith("]") else named
    host = host.strip("[]")
    return is_loopback(host) or host == bound
