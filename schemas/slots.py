"""Slots: 64 shares of the users, the same for ever and in every language."""

from functools import lru_cache
from hashlib import sha256
from unicodedata import normalize

SLOTS = 64


@lru_cache(maxsize=100_000)
def slot_of(user_id: str) -> int:
    """Return the slot of a user, from 0 to 63.

    It is the first six bits of SHA-256 over the NFC form of the id, in UTF-8.
    """
    return sha256(normalize("NFC", user_id).encode("utf-8", "surrogatepass")).digest()[0] >> 2
