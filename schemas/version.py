"""Version of the contract, which replies, notices and answers carry and a dead letter names."""

from typing import Final

#: Raised where a reader of the version before could misread a message; new fields and codes don't raise it.
SCHEMA_VERSION: Final = 2
