"""Access to the console: the user and the client behind a request, and the addresses it serves.

With users in a file everybody signs in. Without, the console serves this machine alone: it is bound to the
loopback interface, and refuses names that are not this machine's (a web site can have its own name lead here)
and requests through a proxy. Every request acts as the operating system's user that runs it.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from secrets import token_hex
from time import time

from flask import Request, session

from worker.console.sign_in_limit import SignInAttempt, SignInLimits
from worker.console.users import Role, User, Users
from worker.http.clients import Client, TrustedProxies
from worker.http.permits import Permits
from worker.runtime.address import is_loopback
from worker.runtime.identity import login_name
from worker.runtime.limited_log import LimitedLog

log = logging.getLogger(__name__)

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
# Another name would end the sessions of a fixed BILLING_CONSOLE_SECRET.
_NAME, _VERSION, _SINCE, _KEY = "person", "mark", "since", "key"

#: Length of a session from its sign-in, in use or not.
SESSION_S = 12 * 3600
_ENDED_MAX = 10_000
#: Passwords that are hashed at a time: each takes 32 MiB and a core. Others wait up to so many seconds.
_HASHES, _HASHES_OF_KNOWN, _HASHES_WAITING, _HASH_WAIT_S = 2, 1, 1, 3.0


class AccessGuard:
    """Identifies the user and the client of a request.

    ``read_only`` makes everybody a viewer. With ``through_https`` what comes past ``proxies`` is refused: it
    was in clear text. ``clock`` returns seconds.
    """

    def __init__(
        self,
        users: Users | None,
        host: str,
        *,
        read_only: bool = False,
        proxies: TrustedProxies = TrustedProxies(),  # noqa: B008 - frozen
        through_https: bool = False,
        clock: Callable[[], float] = time,
    ) -> None:
        self.users = users
        self.read_only = read_only
        self._host = host
        self._own = User(os_user(), Role.VIEWER if read_only else Role.OPERATOR)
        self._clock = clock
        self._ended = _EndedSessions()
        self._proxies, self._through_https = proxies, through_https
        self._log = LimitedLog(log, logging.WARNING)
        self.sign_ins = SignInLimits()
        self._hashing = Permits(_HASHES, _HASH_WAIT_S, waiting=_HASHES_WAITING)
        self._hashing_of_known = Permits(_HASHES_OF_KNOWN, _HASH_WAIT_S, waiting=_HASHES_WAITING)

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

    def authenticate(self, attempt: SignInAttempt, password: str) -> User | None:
        """Return the user whom the password lets in; None where it is wrong, or there is no such user.

        Browsers that have signed in before have a permit of their own, whatever a crowd of others tries.
        Raises NoPermitError where too many passwords are hashed already.
        """
        permits = self._hashing if attempt.device is None else self._hashing_of_known
        with permits.one():
            return None if self.users is None else self.users.authenticate(attempt.name, password)

    def log_wait(self, attempt: SignInAttempt) -> None:
        """Log that an attempt must wait, once a minute for each network: it may be an attack."""
        name = ascii(attempt.name)
        self._log.add(
            attempt.network, f"sign-ins from {attempt.network} wait after failures, as the one under {name}"
        )

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

    def client(self, request: Request) -> Client:
        """Return the client of the request, as a trusted proxy has it; else who opened the connection."""
        forwarded_for = request.headers.get("X-Forwarded-For")
        client = self._proxies.client(
            request.remote_addr or "?", forwarded_for, request.headers.get("X-Forwarded-Proto")
        )
        if forwarded_for is not None and client.proxy is None:
            self._log.add(
                "untrusted",
                f"X-Forwarded-For of {client.address} is not believed, so that all who come through it share "
                "the sign-in limits: if it is your proxy, name it in BILLING_CONSOLE_TRUSTED_PROXIES",
            )
        return client

    def refusal(self, request: Request, client: Client) -> str | None:
        """Return the reason for refusing the request; None where it may be served."""
        if self.requires_sign_in:
            return _IN_CLEAR_TEXT if self._is_in_clear_text(client) else None
        if not _is_own_name(request.host, self._host):
            return f"This console serves this machine alone: the host name {request.host!r} is refused."
        if any(name in request.headers for name in _FORWARDED):
            return (
                "This console has no users and is not served through a proxy: "
                "add users with `billing-worker console users add NAME`."
            )
        origin = request.headers.get("Origin", "null")
        if origin != "null" and not _is_own_name(origin.partition("://")[2], self._host):
            return f"This console serves this machine alone: requests of pages from {origin!r} are refused."
        return None

    def _is_in_clear_text(self, client: Client) -> bool:
        """Return True where the request surely came without TLS, over a network."""
        if not self._through_https:
            return False
        if client.proxy is not None:
            return client.scheme == "http"
        return bool(self._proxies) and not is_loopback(client.address)


_IN_CLEAR_TEXT = (
    "This console is served through HTTPS alone, and this request came in clear text: open it with https://. "
    "If you did, the proxy must send X-Forwarded-Proto, and be named in BILLING_CONSOLE_TRUSTED_PROXIES."
)


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
