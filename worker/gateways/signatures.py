"""Signatures of webhooks, over the bytes as they came.

Sources: https://docs.stripe.com/webhooks#verify-manually and
https://developer.paddle.com/webhooks/signature-verification
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Largest difference between the time of a signature and ours, in seconds.
TOLERANCE_S: Final = 300
_TIME = re.compile(r"[0-9]{1,12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Most signatures in one header: one for each secret while secrets change.
_MOST: Final = 16


class SignatureCode(StrEnum):
    """Reasons to refuse a signature."""

    MISSING = "signature_missing"  #: no header, or an empty one
    UNREADABLE = "signature_unreadable"  #: no time, two times, or no signature
    EXPIRED = "signature_expired"  #: signed too long ago, or in the future: perhaps a replay
    WRONG = "signature_wrong"  #: no secret makes this signature of this body


class SignatureError(Exception):
    """A webhook that can't be verified; the text never holds a secret or a signature."""

    def __init__(self, code: SignatureCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """Form of a gateway's signature: its header, and how the time and the body are joined."""

    header: str
    separator: str
    time_key: str
    signature_key: str
    joint: bytes

    def verify(
        self, body: bytes, header: str | None, secrets: Sequence[str], *, now: float, tolerance_s: int
    ) -> None:
        """Raise SignatureError unless one of ``secrets`` signed ``body`` at about ``now``.

        Each signature is compared with each secret, in constant time: both change, one before the other.
        """
        time, given = self._parts(header)
        signed = time.encode() + self.joint + body
        matches = False
        for secret in secrets:
            expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
            for one in given:
                matches |= hmac.compare_digest(expected.encode(), one.encode())
        if not matches:
            raise SignatureError(
                SignatureCode.WRONG,
                f"no secret makes the {self.header} of this body: is it the secret of this very endpoint, "
                "and does nothing in between change the body?",
            )
        if abs(now - int(time)) > tolerance_s:
            raise SignatureError(
                SignatureCode.EXPIRED,
                f"{self.header} was made {_distance(now - int(time))}, at most {tolerance_s} s are taken: "
                "is it a replay, or is a clock wrong?",
            )

    def _parts(self, header: str | None) -> tuple[str, list[str]]:
        """Return the time and the signatures of the header."""
        if header is None or not header.strip():
            raise SignatureError(SignatureCode.MISSING, f"the header {self.header} is missing")
        pairs = [part.strip().partition("=") for part in header.split(self.separator)]
        times = [value for key, _, value in pairs if key == self.time_key]
        given = [value for key, _, value in pairs if key == self.signature_key]
        is_whole = 0 < len(given) <= _MOST and all(map(_SHA256.fullmatch, given))
        if len(times) != 1 or not _TIME.fullmatch(times[0]) or not is_whole:
            raise SignatureError(
                SignatureCode.UNREADABLE,
                f"{self.header} must be {self.time_key}=SECONDS{self.separator}{self.signature_key}=SHA256 "
                f"in hexadecimal, with one {self.time_key}; was it sent twice?",
            )
        return times[0], given


def _distance(age_s: float) -> str:
    return f"{age_s:.0f} s ago" if age_s >= 0 else f"{-age_s:.0f} s ahead of our clock"


STRIPE: Final = SignatureScheme("Stripe-Signature", ",", "t", "v1", b".")
PADDLE: Final = SignatureScheme("Paddle-Signature", ";", "ts", "h1", b":")
