"""Clients of a server: behind trusted proxies, with spoofed headers, and as networks."""

import pytest

from worker.http.clients import Client, TrustedProxies, network_of

PROXIES = TrustedProxies.parse(["10.0.0.0/24", "192.0.2.7", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.7", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "203.0.113.9, 192.0.2.7", "203.0.113.9"),  # two proxies of ours
        ("10.0.0.7", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.7", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.7", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.7", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.7", "203.0.113.9", "203.0.113.9"),
        ("fd00::7%eth0", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "10.0.0.9", "10.0.0.9"),  # a proxy that asks for itself
        ("10.0.0.7", None, "10.0.0.7"),
        ("10.0.0.7", "", "10.0.0.7"),
    ],
)
def test_trusted_proxy_names_its_client(peer: str, forwarded: str | None, address: str) -> None:
    assert PROXIES.client(peer, forwarded, None).address == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not through the proxy
        ("10.0.1.7", "198.51.100.1", "10.0.1.7"),
        ("10.0.0.7", "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the client sent a header of its own
        ("10.0.0.7", "10.0.0.8, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "198.51.100.1, unknown", "10.0.0.7"),
        ("10.0.0.7", "198.51.100.1,", "10.0.0.7"),
        ("10.0.0.7", "198.51.100.1, <script>, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.7", "198.51.100.1;203.0.113.9", "10.0.0.7"),
        ("@", "198.51.100.1", "@"),
    ],
)
def test_spoofed_header_is_not_believed(peer: str, forwarded: str, address: str) -> None:
    assert PROXIES.client(peer, forwarded, None).address == address


def test_scheme_is_the_word_of_the_nearest_trusted_proxy() -> None:
    assert PROXIES.client("10.0.0.7", "203.0.113.9", "https").scheme == "https"
    assert PROXIES.client("10.0.0.7", "203.0.113.9", "https, HTTP").scheme == "http"
    assert PROXIES.client("10.0.0.7", "203.0.113.9", None).scheme is None
    assert PROXIES.client("203.0.113.9", None, "https") == Client("203.0.113.9")


def test_header_is_not_believed_without_the_setting() -> None:
    assert TrustedProxies().client("127.0.0.1", "203.0.113.9", "https") == Client("127.0.0.1")
    assert not TrustedProxies.parse([])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("proxy.example", "must be an address or a network such as"),
        ("10.0.0.7/24", "must be an address or a network such as"),  # bits behind the prefix: a slip
        ("10.0.0.300", "must be an address or a network such as"),
        ("0.0.0.0/0", "claim any address"),
        ("::/0", "claim any address"),
    ],
)
def test_wrong_proxy_is_refused_with_the_way_out(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        TrustedProxies.parse(["10.0.0.7", text])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("@", "@"),
    ],
)
def test_network_of_an_address_is_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
    assert Client(address).network == network
