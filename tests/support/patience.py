"""The same wait under its first name; see tests.support.waiting."""

from tests.support.waiting import eventually

__all__ = ["eventually"]
