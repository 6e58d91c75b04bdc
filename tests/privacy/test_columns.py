"""Columns of the tables that ``erase_user`` knows by name: a new one that may hold an id can't be forgotten.

The function finds all other tables by itself, with every column of text, JSON or bytes.
"""

import re
from importlib import import_module

from sqlalchemy import JSON, Column, LargeBinary, String

from worker.ledger.tables import Identifier, metadata
from worker.privacy.rows_of_user import ABOUT_NOBODY

_REVISION = import_module("worker.ledger.migrations.versions.0026_erasure")

#: Columns from which the function takes the id.
ERASED = {
    "accounts": {"user_id"},
    "operations": {
        *("reference_id", "user_id", "content", "detail", "metadata", "description", "notices"),
    },
    "superseded_outcomes": {
        *("reference_id", "user_id", "content", "detail", "metadata", "description", "notices"),
    },
    "holds": {"reference_id"},
    "payments": {"reference_id"},
    "payment_events": {"reference_id", "payment_reference", "dispute_id", "refund_reference"},
    "claims": {"reference_id", "user_id", "taken_from"},
    "payment_names": {"name", "payment_reference", "user_id", "same_as"},
    "waiting_events": {"reference_id", "name", "user_id", "dispute_id", "refund_reference"},
    "audit_log": {"subject", "reason", "detail"},
}

#: Columns with words of the catalog, of the code or of operators, which are nobody's id.
WORDS = {
    "accounts": {"tier", "next_tier"},
    "lots": {"source"},
    "holds": {"state"},
    "entries": {"counter"},
    "quotas": {"meter"},
    "quota_entries": {"meter"},
    "payments": {"currency", "package_id", "tier", "provider"},
    "payment_events": {"currency", "happened"},
    "waiting_events": {"currency", "happened", "reason"},
    "audit_log": {"actor", "action", "os_user", "host"},
}


def may_hold_an_id(column: Column[object]) -> bool:
    is_word = isinstance(column.type, Identifier)
    return not is_word and isinstance(column.type, String | JSON | LargeBinary)


def known_by_name() -> set[str]:
    """Return the tables that the function doesn't find by itself."""
    (listed,) = re.findall(r"c\.relname NOT IN \((.*?)\)", _REVISION._ERASE_USER, re.DOTALL)
    return set(re.findall(r"'(\w+)'", listed))


def test_every_column_that_may_hold_an_id_is_erased_or_has_words() -> None:
    for name in sorted(known_by_name() - set(ABOUT_NOBODY) - {"alembic_version"}):
        table = metadata.tables[name]
        holding = {column.name for column in table.columns if may_hold_an_id(column)}
        counters = {column.name for column in table.columns if column.name == "counter"}
        assert holding | counters == ERASED.get(name, set()) | WORDS.get(name, set()), name


def test_tables_known_by_name_are_there() -> None:
    assert known_by_name() - {"alembic_version"} <= set(metadata.tables)
