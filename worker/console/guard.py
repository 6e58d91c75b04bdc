"""Access to the console: the user behind a request, and the addresses it serves.

With users in a file everybody signs in. Without, the console serves this machine alone: it is bound to the
loopback interface, and refuses names that are not this machine's (a web site can have its own name lead here)
and requests through a proxy. Every request acts as the operating system's user that runs it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from secrets import token_hex
from time import time

from flask import Request, session

from worker.console.sign_in_limit import SignInLimit
from worker.console.users import Role, User, Users
from worker.runtime.address import is_loopback
from worker.runtime.identity import login_name

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
# Another name would end the sessions of a fixed BILLING_CONSOLE_SECRET.
_NAME, _VERSION, _SINCE, _KEY = "person", "mark", "since", "key"

#: Length of a session from its sign-in, in use or not.
SESSION_S = 12 * 3600
_ENDED_MAX = 10_000


class AccessGuard:
    """Identifies the user of a request. ``read_only`` makes everybody a viewer; ``clock`` returns seconds."""

    def __init__(
        self,
        users: Users | None,
        host: str,
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time,
    ) -> None:
        self.users = users
        self.read_only = read_only
        self._host = host
        self._own = User(os_user(), Role.VIEWER if read_only else Role.OPERATOR)
        self._clock = clock
        self._ended = _EndedSessions()
        self.by_name = SignInLimit(most=5, within_s=60)
        self.by_address = SignInLimit(most=30, within_s=60)

    @property
    def requires_sign_in(self) -> bool:
        """True where a sign-in is required."""
        return self.users is not None

    def current_user(self) -> User | None:
        """Return the user of the present request; None for somebody who has not signed in."""
        if self.users is None:
            return self._own
        name = session.get(_NAME)
        user = self.users.get(name) if isinstance(name, str) else None
        if user is None or session.get(_VERSION) != user.version or not self._is_open():
            return None
        return User(user.name, Role.VIEWER, user.version) if self.read_only else user

    def sign_in(self, user: User) -> None:
        """Start a new session of ``user``; nothing of the one before is kept."""
        session.clear()
        session.permanent = True
        session[_NAME], session[_VERSION] = user.name, user.version
        session[_SINCE], session[_KEY] = int(self._clock()), token_hex(16)

    def sign_out(self) -> None:
        """End the session, also for a copy of its cookie."""
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
        if self.requires_sign_in:
            return None
        if not _is_own_name(request.host, self._host):
            return f"This console serves this machine alone: the host name {request.host!r} is refused."
        if any(name in request.headers for name in _FORWARDED):
            return (
                "This console has no users and is not served through a proxy: "
                "add users with `billing-worker console user NAME`."
            )
        origin = request.headers.get("Origin", "null")
        if origin != "null" and not _is_own_name(origin.partition("://")[2], self._host):
            return f"This console serves this machine alone: requests of pages from {origin!r} are refused."
        return None


class _EndedSessions:
    """Keys of ended sessions, whose signed cookies would stay valid for hours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, None] = OrderedDict()

    def add(self, key: str) -> None:
        """Add an ended session; the oldest of very many are forgotten."""
        with self._lock:
            self._keys[key] = None
            while len(self._keys) > _ENDED_MAX:
                self._keys.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._keys


def os_user() -> str:
    """Return the operating system's user, or its number where it has no name."""
    return login_name() or f"uid {os.getuid()}"


def _is_own_name(named: str, bound: str) -> bool:
    host = named.rsplit(":", 1)[0] if not named.endswith("]") else named
    host = host.strip("[]")
    return is_loopback(host) or host == bound
