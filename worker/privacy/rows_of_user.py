"""Rows of a user: which rows of each table are about one, and which tables have none.

Every table is in one of the two lists; a test holds them to the tables that there are.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Boolean, LargeBinary, Select, Table, Text, bindparam, cast, literal, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from schemas import slot_of
from worker.deadletters.store.tables import (
    audit_log,
    dead_letter_edits,
    dead_letter_events,
    dead_letters,
    replay_items,
)
from worker.ledger import tables

#: An id of this length is told from a word: a dead letter is about the user where its body holds the id.
DISTINCT_MIN = 8

Condition = ColumnElement[bool]
#: Condition of the rows about a user.
RowsOfUser = Callable[[str], Condition]


class _BytesHold(FunctionElement[bool]):
    """Condition that bytes hold other bytes."""

    type = Boolean()
    inherit_cache = True


@compiles(_BytesHold, "postgresql")
def _position(element: _BytesHold, compiler: Any, **options: Any) -> str:
    held, searched = (compiler.process(each, **options) for each in element.clauses)
    return f"position({searched} IN {held}) > 0"


@compiles(_BytesHold, "sqlite")
def _instr(element: _BytesHold, compiler: Any, **options: Any) -> str:
    held, searched = (compiler.process(each, **options) for each in element.clauses)
    return f"instr({held}, {searched}) > 0"


def _forms_of(user_id: str) -> list[bytes]:
    """Return the forms of an id in JSON: as it is, and with all but ASCII escaped."""
    return sorted({json.dumps(user_id, ensure_ascii=each)[1:-1].encode() for each in (False, True)})


def _named(table: Table) -> RowsOfUser:
    """Return the condition for a table of the ledger that names the user."""
    return lambda user_id: (table.c.slot == slot_of(user_id)) & (table.c.user_id == user_id)


def _of_account(table: Table) -> RowsOfUser:
    """Return the condition for a table that names the account."""

    def condition(user_id: str) -> Condition:
        own = select(tables.accounts.c.account_id).where(_named(tables.accounts)(user_id))
        return (table.c.slot == slot_of(user_id)) & (table.c.account_id == own.scalar_subquery())

    return condition


def _of_operations(name: str, user_id: str) -> Select[Any]:
    return select(tables.operations.c[name]).where(_named(tables.operations)(user_id))


def _claims(user_id: str) -> Condition:
    return or_(_named(tables.claims)(user_id), tables.claims.c.taken_from == user_id)


def _waiting_events(user_id: str) -> Condition:
    event, name = tables.waiting_events.c, tables.payment_names.c
    return or_(event.user_id == user_id, event.name.in_(select(name.name).where(name.user_id == user_id)))


def _senders(user_id: str) -> Condition:
    return tables.senders.c.sender_id.in_(_of_operations("sender_id", user_id))


def _dead_letters(user_id: str) -> Condition:
    dead_letter = dead_letters.c
    found = [
        dead_letter.user_id == user_id,
        dead_letter.reference_id.in_(_of_operations("reference_id", user_id)),
    ]
    for form in _forms_of(user_id) if len(user_id) >= DISTINCT_MIN else ():
        searched = bindparam(None, form, type_=LargeBinary)
        found += [_BytesHold(dead_letter.body, searched), _BytesHold(dead_letter.edited_body, searched)]
    return or_(*found)


def _reverse_items(user_id: str) -> Condition:
    item = tables.reverse_items.c
    return (item.slot == slot_of(user_id)) & item.operation_id.in_(_of_operations("operation_id", user_id))


def _of_dead_letter(table: Table) -> RowsOfUser:
    numbers = dead_letters.c.number
    return lambda user_id: table.c.number.in_(select(numbers).where(_dead_letters(user_id)))


def _activity(user_id: str) -> Condition:
    entry = audit_log.c
    return or_(
        entry.subject == user_id,
        entry.detail["user"].as_string() == user_id,
        entry.subject.in_(_of_operations("reference_id", user_id)),
        entry.subject.in_(
            select(literal("letter ") + cast(dead_letters.c.number, Text)).where(_dead_letters(user_id))
        ),
    )


#: Tables with rows about users, in the order of an export.
ABOUT_USERS: Mapping[Table, RowsOfUser] = {
    tables.accounts: _named(tables.accounts),
    tables.operations: _named(tables.operations),
    tables.superseded_outcomes: _named(tables.superseded_outcomes),
    tables.entries: _of_account(tables.entries),
    tables.lots: _of_account(tables.lots),
    tables.holds: _of_account(tables.holds),
    tables.hold_parts: _of_account(tables.hold_parts),
    tables.usage_refunds: _of_account(tables.usage_refunds),
    tables.quotas: _of_account(tables.quotas),
    tables.quota_entries: _of_account(tables.quota_entries),
    tables.payments: _of_account(tables.payments),
    tables.payment_events: _of_account(tables.payment_events),
    tables.claims: _claims,
    tables.payment_names: lambda user_id: tables.payment_names.c.user_id == user_id,
    tables.waiting_events: _waiting_events,
    tables.senders: _senders,
    dead_letters: _dead_letters,
    dead_letter_events: _of_dead_letter(dead_letter_events),
    dead_letter_edits: _of_dead_letter(dead_letter_edits),
    replay_items: _of_dead_letter(replay_items),
    tables.reverse_items: _reverse_items,
    audit_log: _activity,
}

#: Tables without, and why.
ABOUT_NOBODY: Mapping[str, str] = {
    "accepted_configs": "configurations of workers",
    "catalogs": "prices for all users",
    "dead_letter_groups": "sums of dead letters",
    "dead_letter_set_edits": "changes of many dead letters; each has its own edit",
    "erased_ids": "digests alone: of an erased user nothing else is left",
    "id_counters": "numbers",
    "identifiers": "words of the ledger",
    "lane_pauses": "pauses of queues",
    "operator_pauses": "pauses of queues",
    "partition_leases": "partitions of queues",
    "partition_workers": "processes",
    "recoveries": "offsets of the journal",
    "replays": "sets of dead letters that operators chose",
    "reverse_runs": "sets of charges that operators chose",
    "schema_compatibility": "versions",
    "trials": "digests of messages",
    "workers": "processes",
    "write_probes": "random bytes",
}
