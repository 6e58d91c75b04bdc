"""Pieces of a URL of one server or of several, and URLs that are fit for logs.

Every error is a ValueError that says the way out and holds no part of a login.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

UNREADABLE: Final = (
    "is no URL, scheme://user:password@host; in a user name or password write @ : / ? # and % "
    "percent-encoded (@ is %40)"
)
AMQP_SCHEMES: Final = frozenset({"amqp", "amqps", "pyamqp"})

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_FORM = re.compile(rf"({_SCHEME.pattern})://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]*))(?::(\d{0,5}))?")
#: What separates two whole URLs: a comma, or kombu's semicolon, with a scheme behind it.
_NEXT_URL = re.compile(rf"[,;]\s*(?={_SCHEME.pattern}://)")
_SEPARATOR = re.compile(r"[,;]")
_PORT_MAX, _PORT_DIGITS = 65_535, 5
#: Most options that an error lists.
_FEW = 12


@dataclass(frozen=True, slots=True)
class Server:
    """Host and port of a server; a host that begins with a slash is a folder of Unix sockets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """True where nothing leaves this machine on the way there."""
        if self.host.startswith(("/", "@")) or self.host.lower().rstrip(".") in {"localhost", ""}:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Url:
    """Pieces of a URL as they are written; ``hosts`` are what stands between the commas."""

    scheme: str
    login: str | None
    hosts: tuple[str, ...]
    path: str
    query: str

    @classmethod
    def parse(cls, text: str) -> Self:
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(UNREADABLE)
        scheme, authority, path, query = form.group(1), form.group(2), form.group(3), form.group(4) or ""
        if "@" in path or "@" in query:
            raise ValueError(UNREADABLE)
        login, hosts = _login_and_hosts(authority)
        url = cls(scheme, login, tuple(host.strip() for host in hosts), path, query)
        for host in url.hosts:
            server_in(host, 0)  # a password that was taken for a port stops here
        return url

    @property
    def shown(self) -> str:
        """The URL without password and query."""
        return f"{self.scheme}://{self._shown_login}{','.join(self.hosts)}{self.path}"

    @property
    def _shown_login(self) -> str:
        if self.login is None:
            return ""
        user, colon, _ = self.login.partition(":")
        return f"{user}{':***' if colon else ''}@"

    @property
    def user(self) -> str:
        return unquote((self.login or "").partition(":")[0])

    @property
    def password(self) -> str:
        return unquote((self.login or "").partition(":")[2])

    def servers(self, port: int) -> list[Server]:
        """Return the servers; raises ValueError for an empty one between commas."""
        if len(self.hosts) > 1 and "" in self.hosts:
            raise ValueError("names an empty address: remove a comma, or name the server")
        return [server_in(host, port) for host in self.hosts]

    def at(self, hosts: str, query: Sequence[tuple[str, str]]) -> str:
        """Return the URL with other hosts and another query."""
        login = "" if self.login is None else f"{self.login}@"
        options = f"?{urlencode(query, quote_via=quote, safe='/')}" if query else ""
        return f"{self.scheme}://{login}{hosts}{self.path}{options}"

    def options(self) -> list[tuple[str, str]]:
        return parse_qsl(self.query, keep_blank_values=True)


def split_urls(text: str) -> list[str]:
    """Return the URLs of a list; one for a text that is none."""
    return [part.strip() for part in _NEXT_URL.split(text)]


def _login_and_hosts(authority: str) -> tuple[str | None, list[str]]:
    """Return the login, and what stands between the commas behind it; each host may repeat the login."""
    if authority.count("@") <= 1:  # a comma before it belongs to the password
        before, at, hosts = authority.rpartition("@")
        login, listed = before if at else None, _SEPARATOR.split(hosts)
    else:
        pieces = [piece.strip().rpartition("@") for piece in _SEPARATOR.split(authority)]
        logins = {before if at else None for before, at, _ in pieces}
        login, listed = logins.pop(), [host for _, _, host in pieces]
        if logins or login is None:
            raise ValueError(UNREADABLE)
    if login is not None and re.search(r"[@\[\]]", login):
        raise ValueError(UNREADABLE)
    return login, listed


def server_in(text: str, default_port: int) -> Server:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(UNREADABLE)
    ipv6, host, port = found.groups()
    if port and not is_port(port):
        raise ValueError(UNREADABLE)
    return Server(unquote(ipv6 or host), int(port) if port else default_port)


def is_port(text: str) -> bool:
    """Return True for the number of a port."""
    return text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS and 1 <= int(text) <= _PORT_MAX


def each_once(servers: Collection[Server]) -> tuple[Server, ...]:
    """Return each server once, in order."""
    return tuple(dict.fromkeys(servers))


def shown(text: str) -> str:
    """Return a URL, or a list of them, without passwords and queries; where in doubt only the scheme."""
    scheme, separator, _ = text.partition("://")
    is_named = bool(separator) and _SCHEME.fullmatch(scheme) is not None
    try:
        if scheme in AMQP_SCHEMES:
            return _shown_list([Url.parse(part) for part in split_urls(text)])
        if is_named and not is_postgresql(text):
            require_unambiguous(text)
            return _shown_one(text)
        return Url.parse(text).shown
    except ValueError:
        return f"{scheme}://***" if is_named else "***"


def _shown_one(text: str) -> str:
    parts = urlsplit(text)
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{parts.scheme}://{user}{':***' if colon else ''}{at}{host}{parts.path}"


def _shown_list(urls: Sequence[Url]) -> str:
    if len({(url.scheme, url.login, url.path) for url in urls}) > 1:
        return ",".join(url.shown for url in urls)
    return replace(urls[0], hosts=tuple(host for url in urls for host in url.hosts)).shown


def require_unambiguous(text: str) -> None:
    """Raise ValueError where two libraries would find two logins in a URL that is none of ours."""
    scheme, separator, _ = text.partition("://")
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where a password was taken for it
    except ValueError:
        raise ValueError(UNREADABLE) from None
    is_readable = bool(separator) and _SCHEME.fullmatch(scheme) is not None
    if not is_readable or "@" in parts.query or "@" in parts.fragment:
        raise ValueError(UNREADABLE)
    is_file = not parts.netloc and "sqlite" in scheme  # a path may have any name
    if parts.netloc.count("@") > 1 or ("@" in parts.path and not is_file):
        raise ValueError(UNREADABLE)


def require_known(name: str, known: Collection[str], hints: Mapping[str, str]) -> None:
    """Raise ValueError for an option that nobody knows, with the one that was meant."""
    if name in known:
        return
    way_out = hints.get(name.lower())
    if way_out is None:
        close = get_close_matches(name.lower(), known, 1, 0.7)
        few = f"the options are {', '.join(sorted(known))}" if len(known) <= _FEW else "leave it out"
        way_out = f"did you mean {close[0]}?" if close else few
    raise ValueError(f"has the unknown option {name[:40]!r}: {way_out}")


def single_valued(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return options by name. Raises ValueError where one has two values or none."""
    options = dict(pairs)
    for name, value in pairs:
        if options[name] != value:
            raise ValueError(f"gives {name} two values: leave one of them")
        if not value:
            raise ValueError(f"gives {name} no value: leave it out, or fill it in")
    return options


def with_options(url: str, options: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return url
    last = split_urls(url)[-1]
    return f"{url}{'&' if '?' in last else '?'}{urlencode(given, quote_via=quote, safe='/')}"


def is_amqp(text: str) -> bool:
    """Return True for an address of RabbitMQ."""
    return text.partition("://")[0].strip() in AMQP_SCHEMES


def is_postgresql(text: str) -> bool:
    """Return True for an address of PostgreSQL."""
    return text.partition("://")[0].partition("+")[0] in {"postgresql", "postgres"}
