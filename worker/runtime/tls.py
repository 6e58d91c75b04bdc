"""TLS towards a server: a context that judges it by a CA, and shows a certificate of ours."""

import ssl
from pathlib import Path

from worker.addresses import Certificates
from worker.errors import ConfigurationError


def tls_context(files: Certificates) -> ssl.SSLContext:
    """Return a context that checks the server's chain and name, by our CA or by the system's.

    Raises ConfigurationError that names the file which can't be used.
    """
    for path in (files.ca, files.certificate, files.key):
        if path is not None:
            _require_readable(path)
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{files.ca} holds no certificate of a CA in PEM form") from error
    if files.certificate is not None:
        _load(context, files.certificate, files.key)
    return context


def _require_readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error


def _load(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    try:
        # The password is for a key that has one: OpenSSL would ask the terminal for it.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"{certificate} and its key {key or 'in it'} don't fit, or aren't PEM files without a password"
        ) from error
