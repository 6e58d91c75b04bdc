"""Export of an account: every row about a user, in one JSON document that is written as it is read.

``{"format": "billing-account/1", "user": …, "exportedAt": …, "tables": {name: [row, …], …}}``: each table
that may have such rows, as an object for each row, by the names of its columns. Times are in UTC, bytes are
text where they are UTF-8, else an object with ``base64``.
"""

import base64
import json
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Table, select

from worker.errors import NotFoundError
from worker.ledger.engine import translated_errors
from worker.ledger.queries import snapshot
from worker.ledger.session_settings import AS_ASKED, as_local
from worker.privacy.rows_of_user import ABOUT_USERS

FORMAT = "billing-account/1"
_PAGE = 500


def export_account(engine: Engine, user_id: str, now: datetime) -> Iterator[str]:
    """Yield the document in pieces, all from one snapshot.

    Raises NotFoundError, before the first piece, where no row is about the user.
    """
    with translated_errors(), snapshot(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(as_local(AS_ASKED))
        held = [table for table in ABOUT_USERS if _has_rows(connection, table, user_id)]
        if not held:
            raise NotFoundError(f"nothing in the database is about the user {user_id!r}")
        head = {"format": FORMAT, "user": user_id, "exportedAt": now.isoformat()}
        yield f'{json.dumps(head, ensure_ascii=False)[:-1]}, "tables": {{'
        for place, table in enumerate(ABOUT_USERS):
            yield f"{',' if place else ''}\n{json.dumps(table.name)}: ["
            if table in held:
                yield from _rows(connection, table, user_id)
            yield "]"
        yield "\n}}\n"


def _has_rows(connection: Connection, table: Table, user_id: str) -> bool:
    statement = select(1).select_from(table).where(ABOUT_USERS[table](user_id)).limit(1)
    return connection.execute(statement).first() is not None


def _rows(connection: Connection, table: Table, user_id: str) -> Iterator[str]:
    statement = select(table).where(ABOUT_USERS[table](user_id)).order_by(*table.primary_key.columns)
    streamed = connection.execute(statement, execution_options={"yield_per": _PAGE})
    for place, row in enumerate(streamed.mappings()):
        line = json.dumps(plain_row(row), ensure_ascii=False)
        yield f"{',' if place else ''}\n  {line}"


def plain_row(row: RowMapping) -> dict[str, Any]:
    """Return a row by the names of its columns, with values that JSON has."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    match value:
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return int(value)
        case bytes() | memoryview():
            return _text(bytes(value))
        case _:
            return value


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
