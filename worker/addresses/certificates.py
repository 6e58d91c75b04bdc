"""Certificates for servers with TLS: the files, and URLs that name them."""

from collections.abc import Mapping

from worker.addresses.broker import BrokerAddress
from worker.addresses.database import WEAK_MODES, DatabaseAddress
from worker.addresses.files import Certificates
from worker.addresses.urls import is_amqp, is_postgresql, with_options


def with_certificates(url: str, files: Certificates) -> str:
    """Return ``url`` with the files where it speaks TLS and names none of the kind itself.

    A database URL that says nothing of TLS speaks it where a CA is given, and compares the server's name.
    """
    if is_postgresql(url):
        return with_options(url, _missing_for_database(DatabaseAddress.parse(url).options, files))
    if is_amqp(url):
        return with_options(url, _missing_for_broker(BrokerAddress.parse(url), files))
    return url


def _missing_for_broker(address: BrokerAddress, files: Certificates) -> dict[str, str | None]:
    if not address.is_secure:
        return {}
    own = address.files
    added: dict[str, str | None] = {} if own.ca else {"cacertfile": files.ca}
    return added if own.certificate else {**added, "certfile": files.certificate, "keyfile": files.key}


def _missing_for_database(options: Mapping[str, str], files: Certificates) -> dict[str, str | None]:
    if options.get("sslmode", "verify-full") in WEAK_MODES:
        return {}
    if "sslmode" not in options and not files.ca:
        return {}
    added: dict[str, str | None] = {} if "sslmode" in options else {"sslmode": "verify-full"}
    if "sslrootcert" not in options:
        added["sslrootcert"] = files.ca
    if "sslcert" not in options:
        added |= {"sslcert": files.certificate, "sslkey": files.key}
    return added
