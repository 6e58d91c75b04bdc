"""Addresses to listen on: their text, and the ones that only this machine reaches."""

import pytest

from worker.runtime.address import Address, is_loopback


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8800", "127.0.0.1", 8800), ("[::1]:0", "::1", 0), ("localhost:65535", "localhost", 65_535)],
)
def test_text_is_host_and_port(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["8800", "127.0.0.1:", "127.0.0.1:x", ":8800", "127.0.0.1:99999", "a:²"])
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT such as 127\.0\.0\.1:8800"):
        Address.parse(text)


def test_url_of_an_ipv6_address_has_brackets() -> None:
    assert Address("::1", 80).url == "http://[::1]:80/"


def test_bound_socket_listens() -> None:
    with Address("127.0.0.1", 0).bind() as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."])
def test_loopback_names_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])  # noqa: S104 - only asked about
def test_other_names_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
