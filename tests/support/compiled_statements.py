"""Cache of compiled statements that all engines of a test process share.

An engine compiles each statement once and forgets it with its end; the tests make thousands of engines for
the same few statements. A compiled statement depends on the dialect and the server's version, not on who
keeps it.
"""

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.util import LRUCache

_MOST = 3_000


class SharedStatements:
    """Compiled statements of one engine, kept among those of all engines with such a dialect."""

    def __init__(self, dialect: Dialect, kept: LRUCache[Any, Any]) -> None:
        self._dialect, self._kept = dialect, kept

    def get(self, key: tuple[Any, ...]) -> Any:
        """Return what is compiled of ``key``, whoever compiled it; None where nobody did."""
        return self._kept.get(self._shared(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        self._kept[self._shared(key)] = compiled

    def _shared(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the key without the dialect object of one engine, which it begins with."""
        dialect = self._dialect
        kind = (type(dialect), getattr(dialect, "server_version_info", None), dialect.paramstyle)
        return (kind, *key[1:])


def share_compiled_statements(patch: pytest.MonkeyPatch) -> None:
    """Let engines that are made from now on share what they compile."""
    kept: LRUCache[Any, Any] = LRUCache(_MOST)

    def share(engine: Engine, own: Any) -> None:
        vars(engine)["_shared_statements"] = None if own is None else SharedStatements(engine.dialect, kept)

    def shared(engine: Engine) -> Any:
        return vars(engine)["_shared_statements"]

    patch.setattr(Engine, "_compiled_cache", property(shared, share), raising=False)
