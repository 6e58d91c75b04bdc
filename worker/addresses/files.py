"""Files of certificates."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM form: the CA that servers are judged by, and the certificate and key that we show."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
