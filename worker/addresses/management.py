"""Addresses of RabbitMQ's management API, on each node of a broker or elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.addresses.broker import BrokerAddress
from worker.addresses.urls import Server, Url, split_urls

_MANAGEMENT_PORTS = {"http": 15672, "https": 15671}


@dataclass(frozen=True, slots=True)
class ManagementAddress:
    """Place of RabbitMQ's management API; a login of its own where it has one."""

    is_secure: bool
    server: Server
    path: str
    user: str
    password: str = field(repr=False)


def management_addresses(broker: BrokerAddress, text: str | None = None) -> tuple[ManagementAddress, ...]:
    """Return the places of the management API: those in ``text``, or one on each node of the broker."""
    if text is None:
        scheme = "https" if broker.is_secure else "http"
        servers = [Server(node.host, _MANAGEMENT_PORTS[scheme]) for node in broker.nodes]
        return tuple(
            ManagementAddress(broker.is_secure, server, "", broker.user, broker.password)
            for server in dict.fromkeys(servers)
        )
    return tuple(_management_addresses(text, broker.user, broker.password))


def require_management(text: str) -> None:
    """Raise ValueError for what is no address of a management API."""
    list(_management_addresses(text, "", ""))


def _management_addresses(text: str, user: str, password: str) -> Iterator[ManagementAddress]:
    for part in split_urls(text):
        url = Url.parse(part)
        if url.scheme not in _MANAGEMENT_PORTS or url.query:
            raise ValueError("is no http://host:15672 or https://host:15671")
        for server in url.servers(_MANAGEMENT_PORTS[url.scheme]):
            own = (user, password) if url.login is None else (url.user, url.password)
            yield ManagementAddress(url.scheme == "https", server, url.path.rstrip("/"), *own)
