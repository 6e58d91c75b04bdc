"""Address of PostgreSQL: the servers of one database, and the options of libpq."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from worker.addresses.files import Certificates
from worker.addresses.urls import (
    Server,
    Url,
    each_once,
    is_port,
    is_postgresql,
    require_known,
    server_in,
    single_valued,
    with_options,
)

_POSTGRESQL_PORT = 5432
#: Options that libpq knows, up to version 18: https://www.postgresql.org/docs/current/libpq-connect.html
_LIBPQ_OPTIONS = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout dbname
    fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives
    keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
    max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port replication require_auth requirepeer requiressl
    scram_client_key scram_server_key service servicefile ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey
    sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni target_session_attrs
    tcp_user_timeout user
    """.split()  # noqa: SIM905 - readable so
)
_SSLMODE = "say sslmode=verify-full and sslrootcert=/path/of/the/ca.pem"
_DATABASE_HINTS = {
    **dict.fromkeys(("ssl", "tls", "usessl", "sslaccept", "ssl_mode", "sslverify", "ssl_verify"), _SSLMODE),
    **dict.fromkeys(
        ("cacertfile", "ssl_ca", "sslca", "sslrootca", "ssl_ca_certs", "cafile"), "say sslrootcert"
    ),
    **dict.fromkeys(("certfile", "ssl_cert"), "say sslcert"),
    **dict.fromkeys(("keyfile", "ssl_key"), "say sslkey"),
}
WEAK_MODES = ("disable", "allow", "prefer")
_VERIFYING_MODES = ("verify-ca", "verify-full")
_MODES = (*WEAK_MODES, "require", *_VERIFYING_MODES)
#: Hosts that stand before the path of a URL; a folder of sockets doesn't.
_IN_AUTHORITY = re.compile(r"[A-Za-z0-9._:-]+")
_SESSION_ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")


def of_primary(url: str) -> str:
    """Return ``url`` so that it leads to the primary, where it names several servers and doesn't say."""
    if not is_postgresql(url):
        return url
    address = DatabaseAddress.parse(url)
    if len(address.servers) < 2 or "target_session_attrs" in address.options:
        return url
    return with_options(url, {"target_session_attrs": "primary"})


@dataclass(frozen=True)
class DatabaseAddress:
    """Servers of one PostgreSQL, with the options of libpq; the URL keeps login and database."""

    _url: Url = field(repr=False)
    servers: tuple[Server, ...]
    options: Mapping[str, str]
    _pairs: Sequence[tuple[str, str]] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in ``text``: hosts by commas before the path, or as ``host=a:5432&host=b:5432``.

        Knows nothing of the options but where the servers are; see ``require_options``.
        """
        url = Url.parse(text)
        if "," in url.path and "://" in url.path:
            raise ValueError("is a list of URLs: name several servers in one, postgresql://user@a,b/database")
        pairs = url.options()
        named = any(url.hosts)
        rest = [(name, value) for name, value in pairs if named or name not in {"host", "port"}]
        if named and any(name in {"host", "port"} for name, _ in pairs):
            raise ValueError("names its servers twice: before the path, or with host= and port=")
        servers = url.servers(_POSTGRESQL_PORT) if named else _servers_of(pairs)
        return cls(url, each_once(servers), dict(rest), rest)

    @property
    def url(self) -> str:
        """The URL as SQLAlchemy and the driver read it."""
        return self._at(self.servers, self._pairs)

    def url_of(self, server: Server) -> str:
        """Return the URL of one server, whatever its part."""
        pairs = [(name, value) for name, value in self._pairs if name != "target_session_attrs"]
        return self._at((server,), pairs)

    def _at(self, servers: Sequence[Server], pairs: Sequence[tuple[str, str]]) -> str:
        url = replace(self._url, scheme="postgresql")
        if len(servers) == 1 and _IN_AUTHORITY.fullmatch(servers[0].host):
            return url.at(str(servers[0]), pairs)
        # host=a,b and port=1,2: the other form of lists, host=a:1&host=b:2, has no place for IPv6.
        hosts, ports = ",".join(each.host for each in servers), ",".join(str(each.port) for each in servers)
        return url.at("", [*pairs, ("host", hosts), ("port", ports)] if servers else pairs)

    def require_options(self) -> None:
        """Raise ValueError for an option that libpq doesn't know, or that sets up TLS in a wrong way."""
        for name in self.options:
            require_known(name, _LIBPQ_OPTIONS, _DATABASE_HINTS)
        single_valued(self._pairs)
        if self.options.get("target_session_attrs", "any") not in _SESSION_ATTRS:
            raise ValueError(f"has a target_session_attrs that is none of {', '.join(_SESSION_ATTRS)}")
        _require_database_tls(self.options)

    @property
    def files(self) -> Certificates:
        """Files of the certificates; a CA of the system's is no file."""
        find = self.options.get
        ca = find("sslrootcert")
        return Certificates(None if ca == "system" else ca, find("sslcert"), find("sslkey"))

    @property
    def needs_ca(self) -> bool:
        """True where the server is to be judged and the URL doesn't say by which CA."""
        return self.options.get("sslmode") in _VERIFYING_MODES and "sslrootcert" not in self.options

    def warning(self) -> str | None:
        """Return what is unsafe about the way to the servers; None where nothing is."""
        mode = self.options.get("sslmode", "prefer")
        if mode == "verify-full" or all(server.is_local for server in self.servers):
            return None
        if mode in WEAK_MODES:
            return f"its traffic may be in clear text (sslmode is {mode}): {_SSLMODE}"
        if mode == "verify-ca" or "sslrootcert" in self.options:
            return "any server with a certificate of the CA is trusted: say sslmode=verify-full"
        return f"any server is trusted (sslmode is require, without a CA): {_SSLMODE}"


def _require_database_tls(options: Mapping[str, str]) -> None:
    mode = options.get("sslmode", "prefer")
    if mode not in _MODES:
        raise ValueError(f"has an sslmode that is none of {', '.join(_MODES)}")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"):
        if name in options and mode in WEAK_MODES:
            raise ValueError(f"has {name} and an sslmode that may do without TLS: say sslmode=verify-full")
    if "sslkey" in options and "sslcert" not in options:
        raise ValueError("has sslkey without sslcert: name both")
    if options.get("sslrootcert") == "system" and mode != "verify-full":
        raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")


def _servers_of(pairs: Sequence[tuple[str, str]]) -> list[Server]:
    """Return the servers of ``host=a:1&host=b:2`` or ``host=a,b&port=1,2``; none: the driver's default."""
    hosts = [value for name, value in pairs if name == "host"]
    ports = [port for name, value in pairs if name == "port" for port in value.split(",")]
    if len(hosts) == 1:
        hosts = hosts[0].split(",")
    if not hosts:
        hosts = ["localhost"] if ports else []
    if len(hosts) > 1 and not all(hosts):
        raise ValueError("names an empty host: remove a comma, or name the server")
    if not ports:
        return [_of_host(host) for host in hosts]
    if len(ports) not in {1, len(hosts)} or not all(map(is_port, ports)):
        raise ValueError("has another number of ports than of hosts, or a port that is none of 1 to 65535")
    each = ports * len(hosts) if len(ports) == 1 else ports
    return [Server(host, int(port)) for host, port in zip(hosts, each, strict=True)]


def _of_host(text: str) -> Server:
    """Return the server of ``host``, ``host:port``, an IPv6 address or a folder of sockets."""
    if text.startswith(("/", "@")) or (text.count(":") > 1 and not text.startswith("[")):
        return Server(text, _POSTGRESQL_PORT)
    return server_in(text, _POSTGRESQL_PORT)
