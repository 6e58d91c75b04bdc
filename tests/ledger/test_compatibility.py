"""Versions of the code that a schema is for."""

import re

import pytest
from sqlalchemy import Engine

from worker.errors import SchemaChangedError, UnusableSchemaError
from worker.ledger.compatibility import Compatibility, SchemaUse, compatibility_of, require_usable
from worker.ledger.engine import translated_errors
from worker.ledger.revisions import newest_revision
from worker.ledger.store import Ledger


@pytest.mark.parametrize(
    ("revision", "writers_from", "use", "why"),
    [
        ("0020", "0020", SchemaUse.WRITE, None),
        ("0023", "0017", SchemaUse.WRITE, None),
        ("0023", "0020", SchemaUse.WRITE, None),
        ("0023", "0021", SchemaUse.READ, None),
        (
            "0023",
            "0021",
            SchemaUse.WRITE,
            "0023 isn't for version .* built for 0020 and not for 0021 or later",
        ),
        ("0019", "0017", SchemaUse.READ, "is at 0019, this version needs 0020: run `billing-worker migrate`"),
        (None, "0017", SchemaUse.WRITE, "is at nothing, this version needs 0020"),
    ],
)
def test_version_uses_its_schema_and_later_ones_that_allow_it(
    revision: str | None, writers_from: str, use: SchemaUse, why: str | None
) -> None:
    found = Compatibility(revision, writers_from, readers_from="0017").misfit("0020", use)
    assert (found is None) == (why is None)
    if found is not None and why is not None:
        assert re.search(why, found)


def test_newest_schema_is_for_this_version(engine: Engine) -> None:
    require_usable(engine)
    require_usable(engine, SchemaUse.READ)


def test_later_schema_says_who_may_write_and_read_it(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    before = compatibility_of(engine)
    assert (before.revision, before.misfit(newest_revision())) == ("9999", None)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE schema_compatibility SET writers_from = '9999'")
    require_usable(engine, SchemaUse.READ)
    with pytest.raises(UnusableSchemaError, match="must not write there, update it"):
        Ledger(engine).require_usable()


def test_role_without_rights_may_read_which_versions_the_schema_is_for(postgres_engine: Engine) -> None:
    with postgres_engine.connect() as connection:  # the role goes with the transaction
        connection.exec_driver_sql("CREATE ROLE nobody_much; SET LOCAL ROLE nobody_much")
        assert connection.exec_driver_sql("SELECT writers_from FROM schema_compatibility").scalar_one()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT no_such FROM accounts",
        "SELECT 1 FROM no_such_table",
        "SELECT 1 FROM accounts WHERE user_id = 1",
        "INSERT INTO write_probes (id, payload) SELECT reference_id, '' FROM operations",
    ],
)
def test_statement_that_fits_no_schema_is_no_fault_of_a_message(
    postgres_engine: Engine, statement: str
) -> None:
    with (
        pytest.raises(SchemaChangedError, match="the schema is not as it must be"),
        translated_errors(),
        postgres_engine.begin() as connection,
    ):
        connection.exec_driver_sql(statement)
