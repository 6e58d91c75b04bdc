"""The recorder sees statements that leave out the slot of a table."""

import pytest

from tests.support.slot_recorder import is_without_slot

NAMED = [
    "SELECT accounts.balance FROM accounts WHERE accounts.user_id = 'u' AND accounts.slot = 3",
    "SELECT count(*) FROM operations WHERE operations.slot BETWEEN 0 AND 63",
    "SELECT e.amount FROM entries AS e JOIN operations AS o ON o.slot = e.slot WHERE e.slot = 1",
    "PREPARE lock_accounts_0(smallint, text[]) AS SELECT t.balance FROM accounts AS t WHERE t.slot = $1",
    "INSERT INTO entries (account_id, slot, sequence) SELECT account_id, slot, sequence FROM unnest($1) r",
    "WITH w0 AS (UPDATE lots AS t SET held = r.held FROM unnest($1) r WHERE t.slot = r.slot) SELECT 1",
    "DELETE FROM accounts WHERE user_id = 'u' AND slot = 3",
    "PREPARE x(TEXT[]) AS SELECT t.code FROM operations AS t WHERE t.reference_id = ANY($1)",
    "SELECT operations.code FROM operations WHERE operations.reference_id IN (?, ?)",
    "PREPARE x(lots[], entries[]) AS INSERT INTO lots (slot) SELECT slot FROM unnest($1) r",
    "SELECT dead_letters.number FROM dead_letters",
    "EXECUTE lock_accounts_0(%s, %s)",
    "CREATE INDEX ix ON operations (user_id)",
]
WITHOUT = [
    "SELECT accounts.balance FROM accounts WHERE accounts.user_id = 'u'",
    "SELECT 1 FROM entries AS e JOIN operations AS o ON o.operation_id = e.operation_id WHERE e.slot = 1",
    "SELECT 1 FROM holds, hold_parts WHERE holds.slot = 1 AND holds.operation_id = hold_parts.operation_id",
    "INSERT INTO entries (account_id, sequence) SELECT account_id, sequence FROM unnest($1) r",
    "UPDATE operations SET is_taken = true WHERE operations.operation_id = 1",
    "PREPARE x(TEXT[]) AS SELECT t.code FROM operations AS t WHERE t.user_id = ANY($1)",
    "SELECT (SELECT max(entries.sequence) FROM entries) FROM accounts WHERE accounts.slot = 1",
    "PREPARE x(TEXT[]) AS SELECT t.code FROM operations AS t WHERE t.reference_id = ANY($1) OR t.amount = 1",
]


@pytest.mark.parametrize("statement", NAMED)
def test_statement_that_names_the_slot_passes(statement: str) -> None:
    assert not is_without_slot(statement)


@pytest.mark.parametrize("statement", WITHOUT)
def test_statement_that_leaves_out_a_slot_is_found(statement: str) -> None:
    assert is_without_slot(statement)
