"""Signatures as the gateways make them, for tests."""

import hashlib
import hmac
from collections.abc import Sequence

NOW = 1_795_700_000
SECRET, OLD_SECRET = "whsec_lampshade", "whsec_yesteryear"


def sign(secret: str, signed: bytes) -> str:
    """Return the HMAC with SHA-256, in hexadecimal."""
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def stripe_header(body: bytes, *, at: int = NOW, secrets: Sequence[str] = (SECRET,)) -> str:
    """Return a Stripe-Signature."""
    signed = f"{at}.".encode() + body
    return ",".join([f"t={at}", *(f"v1={sign(secret, signed)}" for secret in secrets)])


def paddle_header(body: bytes, *, at: int = NOW, secrets: Sequence[str] = (SECRET,)) -> str:
    """Return a Paddle-Signature."""
    signed = f"{at}:".encode() + body
    return ";".join([f"ts={at}", *(f"h1={sign(secret, signed)}" for secret in secrets)])
