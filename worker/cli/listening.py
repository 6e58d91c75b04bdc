"""Conditions of commands that serve: an address, no clear text before others' eyes, the packages."""

from importlib import import_module

import click

from worker.errors import ConfigurationError
from worker.runtime.address import Address


def listen_address(text: str, named: str) -> Address:
    """Return the address in ``HOST:PORT``. Raises UsageError, which calls it ``named``."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise click.UsageError(f"{named} {error}") from None


def refuse_clear_text(address: Address, what: str, *, https: bool, insecure: bool) -> None:
    """Refuse to send ``what`` in clear text where others can listen, unless somebody answers for it.

    Every address but the loopback ones counts, also one of a private network: other machines share that, and
    a server has no means to know who they are. Raises ConfigurationError.
    """
    if not (address.is_loopback or https or insecure):
        raise ConfigurationError(
            f"{address.host} can be reached by others, and {what} would be sent in clear text: put a proxy "
            "with TLS in front and say --https, or say --insecure where the network is safe"
        )


def require_extra(extra: str, what: str, *modules: str) -> None:
    """Raise ConfigurationError where a module of an extra, which ``what`` needs, is not installed."""
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{what} needs the extra `{extra}` ({error.name} is missing): "
            f"pip install 'billing-worker[{extra}]'"
        ) from error
