"""Address of RabbitMQ: the nodes of one broker, with the login, the virtual host and the options."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlencode

from worker.addresses.files import Certificates
from worker.addresses.urls import (
    AMQP_SCHEMES,
    Server,
    Url,
    each_once,
    require_known,
    single_valued,
    split_urls,
)

_AMQP_PORTS = {"amqps": 5671}
_AMQP_PORT = 5672
_BROKER_OPTIONS = (
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "connection_timeout",
    "heartbeat",
    "keyfile",
    "server_name_indication",
    "verify",
)
_OF_TLS = ("cacertfile", "certfile", "keyfile", "server_name_indication", "verify")
_AMQPS = "TLS is amqps:// in place of amqp://, with cacertfile=/path/of/the/ca.pem"
_BROKER_HINTS = {
    **dict.fromkeys(("ssl", "tls", "ssl_options", "sslmode", "use_ssl", "secure"), _AMQPS),
    **dict.fromkeys(("ssl_ca_certs", "ca_certs", "cafile", "sslrootcert", "ssl_ca"), "say cacertfile"),
    **dict.fromkeys(("ssl_certfile", "sslcert", "ssl_cert"), "say certfile"),
    **dict.fromkeys(("ssl_keyfile", "sslkey", "ssl_key"), "say keyfile"),
    **dict.fromkeys(("ssl_cert_reqs", "fail_if_no_peer_cert", "ssl_verify"), "say verify=verify_peer"),
    "login_method": "say auth_mechanism=external",
    "connect_timeout": "say connection_timeout, in milliseconds",
}
_UNVERIFIED = "would trust any server: leave it out, and name the CA of yours with cacertfile"
_HEARTBEAT_MAX_S = 600
_TIMEOUT_MAX_MS = 60_000
_DIFFERENT = (
    "has addresses that differ in user, password, virtual host or scheme: they are nodes of one broker, "
    "write amqp://user:password@a,b/vhost"
)


@dataclass(frozen=True)
class BrokerAddress:
    """Nodes of one RabbitMQ, with the login, the virtual host and the options of the URL.

    The options are those of RabbitMQ's own URIs: https://www.rabbitmq.com/docs/uri-query-parameters
    """

    scheme: str
    nodes: tuple[Server, ...]
    user: str
    password: str = field(repr=False)
    vhost: str
    options: Mapping[str, str]
    #: Options of another client that were allowed, as they are.
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, allowed: Collection[str] = ()) -> Self:
        """Return the address in ``text``; options that are ``allowed`` beside ours are kept apart.

        ``amqp://u:p@a,amqp://u:p@b``, with semicolons, and ``amqp://u:p@a,b`` name several nodes.
        """
        urls = [Url.parse(part) for part in split_urls(text)]
        first = urls[0]
        if any((url.scheme, url.login, url.path) != (first.scheme, first.login, first.path) for url in urls):
            raise ValueError(_DIFFERENT)
        if first.scheme not in AMQP_SCHEMES:
            raise ValueError("begins with another scheme than amqp:// or amqps://")
        port = _AMQP_PORTS.get(first.scheme, _AMQP_PORT)
        nodes = [Server(node.host or "localhost", node.port) for url in urls for node in url.servers(port)]
        options = single_valued([pair for url in urls for pair in url.options()])
        own = {name: value for name, value in options.items() if name not in allowed}
        return cls(
            scheme=first.scheme,
            nodes=each_once(nodes),
            user=first.user or "guest",
            password=first.password or "guest",
            vhost=unquote(first.path.removeprefix("/")) or "/",
            options=_broker_options(own, is_secure=first.scheme == "amqps"),
            others={name: value for name, value in options.items() if name in allowed},
        )

    @property
    def is_secure(self) -> bool:
        """True where TLS is spoken."""
        return self.scheme == "amqps"

    @property
    def files(self) -> Certificates:
        """Files of the certificates."""
        find = self.options.get
        return Certificates(find("cacertfile"), find("certfile"), find("keyfile"))

    @property
    def is_external(self) -> bool:
        """True where the certificate is the login (EXTERNAL)."""
        return self.options.get("auth_mechanism", "").lower() == "external"

    @property
    def heartbeat_s(self) -> int | None:
        """Seconds between two heartbeats; None: the client's own."""
        value = self.options.get("heartbeat")
        return None if value is None else int(value)

    @property
    def connect_timeout_s(self) -> float | None:
        """Longest wait for a node to connect; None: the client's own."""
        value = self.options.get("connection_timeout")
        return None if value is None else int(value) / 1000

    def name_of(self, node: Server) -> str:
        """Return the name that the certificate of ``node`` must have, as it is written."""
        return self.options.get("server_name_indication", node.host)

    def url_of(self, node: Server) -> str:
        """Return the URL of one node, with our options."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        options = f"?{urlencode(self.options, quote_via=quote, safe='/')}" if self.options else ""
        return f"{self.scheme}://{login}@{node}/{quote(self.vhost, safe='')}{options}"

    def warning(self) -> str | None:
        """Return what is unsafe about the way to the nodes; None where nothing is."""
        if self.is_secure or all(node.is_local for node in self.nodes):
            return None
        return "passwords and messages travel in clear text: use amqps://"


def _broker_options(options: Mapping[str, str], *, is_secure: bool) -> Mapping[str, str]:
    for name in options:
        require_known(name, _BROKER_OPTIONS, _BROKER_HINTS)
        if name in _OF_TLS and not is_secure:
            raise ValueError(f"has {name} without TLS: write amqps:// in place of amqp://")
    if options.get("verify", "verify_peer") != "verify_peer":
        raise ValueError(f"has a verify that {_UNVERIFIED}")
    if options.get("server_name_indication") == "disable":
        raise ValueError("has server_name_indication=disable: leave it out, or give the certificate's name")
    if "keyfile" in options and "certfile" not in options:
        raise ValueError("has keyfile without certfile: name both")
    _require_mechanism(options, is_secure=is_secure)
    _require_number(options, "heartbeat", _HEARTBEAT_MAX_S, "seconds")
    _require_number(options, "connection_timeout", _TIMEOUT_MAX_MS, "milliseconds")
    return options


def _require_mechanism(options: Mapping[str, str], *, is_secure: bool) -> None:
    mechanism = options.get("auth_mechanism", "plain").lower()
    if mechanism not in {"plain", "external"}:
        raise ValueError("has an auth_mechanism that is neither plain nor external")
    if mechanism == "external" and not is_secure:
        raise ValueError("has auth_mechanism=external without TLS: it needs amqps:// and certfile")


def _require_number(options: Mapping[str, str], name: str, most: int, unit: str) -> None:
    value = options.get(name, "1")
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise ValueError(f"has a {name} that is no number of {unit} from 1 to {most}")
