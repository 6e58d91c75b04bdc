"""Access to the console: the person behind a request, and the addresses it serves.

With people in a file everybody signs in. Without, the console serves this machine alone: it is bound to the
loopback interface, and refuses names that are not this machine's (a web site can have its own name lead here)
and requests through a proxy. Every request acts as the operating system's user that runs it.
"""

import ipaddress
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from time import time

from flask import Request, session

from worker.console.attempts import Attempts
from worker.console.people import People, Person, Role
from worker.runtime.identity import login_name

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_NAME, _MARK, _SINCE, _KEY = "person", "mark", "since", "key"

#: Length of a session from its sign-in, however busy it is.
SESSION_S = 12 * 3600
_ENDED_MAX = 10_000


class AccessGuard:
    """Tells who a request comes from. ``read_only`` makes a viewer of everybody; ``clock`` tells seconds."""

    def __init__(
        self,
        people: People | None,
        host: str,
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time,
    ) -> None:
        self.people = people
        self.read_only = read_only
        self._host = host
        self._own = Person(os_user(), Role.VIEWER if read_only else Role.OPERATOR)
        self._clock = clock
        self._ended = _Ended()
        self.by_name = Attempts(most=5, within_s=60)
        self.by_address = Attempts(most=30, within_s=60)

    @property
    def asks_for_passwords(self) -> bool:
        """True where a sign-in is required."""
        return self.people is not None

    def person(self) -> Person | None:
        """Return the person of the present request; None for somebody who has not signed in."""
        if self.people is None:
            return self._own
        name = session.get(_NAME)
        person = self.people.person(name) if isinstance(name, str) else None
        if person is None or session.get(_MARK) != person.mark or not self._is_open():
            return None
        return Person(person.name, Role.VIEWER, person.mark) if self.read_only else person

    def sign_in(self, person: Person) -> None:
        """Remember ``person`` in the session, and nothing of what was in it before."""
        session.clear()
        session.permanent = True
        session[_NAME], session[_MARK] = person.name, person.mark
        session[_SINCE], session[_KEY] = int(self._clock()), token_hex(16)

    def sign_out(self) -> None:
        """End the session, also for whoever has a copy of its cookie, and forget what was in it."""
        if isinstance(key := session.get(_KEY), str):
            self._ended.add(key)
        session.clear()

    def _is_open(self) -> bool:
        since, key = session.get(_SINCE), session.get(_KEY)
        if not isinstance(since, int) or not isinstance(key, str):
            return False
        return self._clock() - since < SESSION_S and key not in self._ended

    def refusal(self, request: Request) -> str | None:
        """Return the reason for refusing the request; None where it may be served."""
        if self.asks_for_passwords:
            return None
        if not _is_own_name(request.host, self._host):
            return f"This console serves this machine alone, and not the name {request.host!r}."
        if any(name in request.headers for name in _FORWARDED):
            return (
                "This console has no users, so that it can't be reached through a proxy: "
                "make some with `billing-worker console user NAME`."
            )
        origin = request.headers.get("Origin", "null")
        if origin != "null" and not _is_own_name(origin.partition("://")[2], self._host):
            return f"This console serves this machine alone, and no pages of {origin!r}."
        return None


class _Ended:
    """Sessions that were ended, by their keys: their signed cookies would stay valid for hours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, None] = OrderedDict()

    def add(self, key: str) -> None:
        """Add an ended session; of very many the first are forgotten."""
        with self._lock:
            self._keys[key] = None
            while len(self._keys) > _ENDED_MAX:
                self._keys.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._keys


@dataclass(frozen=True, slots=True)
class Address:
    """Address that the console listens on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The URL for people to open."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def is_loopback(host: str) -> bool:
    """Return True where ``host`` is this machine's own address; of names only localhost is."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def os_user() -> str:
    """Return the operating system's user, or its number where it has no name."""
    return login_name() or f"uid {os.getuid()}"


def _is_own_name(named: str, bound: str) -> bool:
    host = named.rsplit(":", 1)[0] if not named.endswith("]") else named
    host = host.strip("[]")
    return is_loopback(host) or host == bound
