"""Clients of a server: their addresses, also behind trusted proxies, and the networks they are counted by.

``X-Forwarded-For`` is a list to which each proxy appends the address that it was called from; everything
before the entries of one's own proxies is the client's own word. So it is read from its end, and no further
than trusted proxies go. ``Forwarded`` and ``X-Real-IP`` are never believed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

#: Length of the prefix that one customer of an IPv6 provider has at least (RFC 6177).
_ONE_CLIENT_V6 = 64


@dataclass(frozen=True, slots=True)
class Client:
    """Client of a request. ``proxy`` is the trusted proxy that sent it, ``scheme`` how it came there."""

    address: str
    proxy: str | None = None
    scheme: str | None = None

    @property
    def network(self) -> str:
        """Network that limits count as one client."""
        return network_of(self.address)


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""

    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Return the proxies with these addresses and networks. Raises ValueError that names a wrong one."""
        return cls(tuple(_network(text) for text in texts))

    def __bool__(self) -> bool:
        return bool(self.networks)

    def __contains__(self, address: _Address) -> bool:
        return any(address in network for network in self.networks)

    def client(self, peer: str, forwarded_for: str | None, forwarded_proto: str | None) -> Client:
        """Return the client of a request that ``peer`` sent with these headers."""
        address = parsed(peer)
        if address is None or address not in self:
            return Client(peer if address is None else str(address))
        scheme = (forwarded_proto or "").rpartition(",")[2].strip().lower() or None
        return Client(str(self._before(address, forwarded_for)), proxy=str(address), scheme=scheme)

    def _before(self, proxy: _Address, forwarded_for: str | None) -> _Address:
        """Return the last address that is no trusted proxy; the farthest proxy where there is none."""
        last = proxy
        for text in reversed((forwarded_for or "").split(",")):
            address = parsed(_without_port(text.strip()))
            if address is None:
                return last
            last = address
            if address not in self:
                return last
        return last


def network_of(address: str) -> str:
    """Return the network that is one client: an IPv4 address itself, the /64 of an IPv6 address."""
    found = parsed(address)
    if not isinstance(found, IPv6Address):
        return address if found is None else str(found)
    return str(IPv6Network((int(found), _ONE_CLIENT_V6), strict=False))


def parsed(text: str) -> _Address | None:
    """Return the address without its zone, as IPv4 where IPv6 only wraps it; None where it is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _without_port(text: str) -> str:
    """Return an address of ``X-Forwarded-For`` without the port that some proxies add."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _network(text: str) -> _Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(
            f"must be an address or a network such as 10.0.0.7 or 10.0.0.0/24, not {text[:60]!r}"
        ) from None
    if not network.prefixlen:
        raise ValueError(f"must not be {text}: everybody could then claim any address; name your proxies")
    return network
