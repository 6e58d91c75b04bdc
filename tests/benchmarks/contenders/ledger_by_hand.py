"""Handwritten ledger work of a ``usage.deduct``: SQLAlchemy, one transaction a message.

Three statements between BEGIN and COMMIT: lock the account, read what may be spent, write. They keep the
worker's own tables, so that its audit can judge them, and answer with its replies. What a deduction does not
need is left out, in favour of whoever runs this: no notices, no new judgement of a rejected reference, and
nothing that falls due.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, Engine, Row, bindparam, select, text

from schemas import SCHEMA_VERSION, Code, DeductUsage, Status, slot_of
from worker.core.replies import human_amount
from worker.ledger.identifiers import SYMBOLS, Kind, number_of
from worker.ledger.tables import balance_before, last_entry, operations

Values = dict[str, Any]

_JSON = ("detail", "metadata")
_NUMBERED: tuple[Kind, ...] = ("type", "status", "code")
_FOLLOWING = {"balance_before": balance_before(), "last_entry": last_entry()}
_STORED = select(
    *(column for column in operations.c if column.name not in _FOLLOWING),
    *(following.label(name) for name, following in _FOLLOWING.items()),
).where(operations.c.reference_id == bindparam("reference_id"), ~operations.c.is_taken)
# Numbers of its own, far above those that the worker takes.
_NUMBERS = (
    "SELECT pg_advisory_xact_lock(1)",
    "CREATE SEQUENCE IF NOT EXISTS operations_by_hand START 1000000000000",
)

# A transaction that waits for the lock sees the account as it is then, but the reference as it was before:
# the unique key decides whether the reference is new.
_LOCK = text(
    "SELECT a.account_id, a.balance, a.held, a.debt, a.sequence, a.due_at, o.operation_id AS stored "
    "FROM accounts a LEFT JOIN operations o ON o.reference_id = :reference_id AND NOT o.is_taken "
    "WHERE a.user_id = :user_id AND a.slot = :slot FOR UPDATE OF a"
)
# For the same reason this is a statement of its own: the transaction before has changed the lots.
_BURNING = text(
    "SELECT number, remaining - held AS free FROM lots "
    "WHERE account_id = :account_id AND slot = :slot AND is_open AND remaining > held "
    "ORDER BY priority, expires_at NULLS LAST, number"
)

_CLAIM = """
    INSERT INTO operations (operation_id, slot, reference_id, type, user_id, attempt, content, status, code,
        amount, balance_before, balance_after, detail, occurred_at, metadata, description, first_entry,
        last_entry, recorded_at)
    VALUES (nextval('operations_by_hand'), :slot, :reference_id, :type, :user_id, :attempt, :content, :status,
        :code, :amount,
        CASE WHEN CAST(:first_entry AS bigint) IS NULL THEN CAST(:balance_before AS bigint)
            ELSE nullif(CAST(:balance_before AS bigint), CAST(:balance_after AS bigint) + :amount) END,
        :balance_after, CAST(:detail AS jsonb), :occurred_at, CAST(:metadata AS jsonb), :description,
        :first_entry, nullif(CAST(:last_entry AS bigint), :first_entry), :recorded_at)
    ON CONFLICT DO NOTHING
    RETURNING operation_id
"""
_REFUSE = text(_CLAIM)
# All writes depend on the claim: nothing is written for a reference that is there already.
_APPLY = text(f"""
    WITH claimed AS ({_CLAIM}),
    moved AS (
        UPDATE accounts
        SET balance = :balance_after, sequence = :last_entry, used = used + :amount, updated_at = :recorded_at
        FROM claimed WHERE account_id = :account_id AND slot = :slot
    ),
    parts AS (
        SELECT operation_id, lot, tokens, :first_entry - 1 + place AS sequence,
            :balance_before - sum(tokens) OVER (ORDER BY place) AS after
        FROM claimed, unnest(CAST(:lots AS bigint[]), CAST(:tokens AS bigint[]))
            WITH ORDINALITY part (lot, tokens, place)
    ),
    burned AS (
        UPDATE lots SET remaining = remaining - tokens, is_open = remaining + pending > tokens
        FROM parts WHERE account_id = :account_id AND slot = :slot AND number = lot
    )
    INSERT INTO entries (account_id, slot, sequence, operation_id, counter, amount, balance_after, lot,
        occurred_at, recorded_at, is_due)
    SELECT :account_id, :slot, sequence, operation_id, '{SYMBOLS["usage"]}', -tokens, after, lot,
        coalesce(:occurred_at, :recorded_at), :recorded_at, false
    FROM parts
    RETURNING operation_id
""")  # noqa: S608 - put together from constants


def apply(engine: Engine, command: DeductUsage, now: datetime) -> bytes:
    """Apply ``command`` once, commit, and return the body of its reply.

    Raises NotImplementedError where something is due on the account, which only the worker would post.
    """
    _make_numbers(engine)
    content = to_json(command.content()).decode()
    with engine.begin() as connection:
        named = {
            "reference_id": command.reference_id,
            "user_id": command.user_id,
            "slot": slot_of(command.user_id),
        }
        account = connection.execute(_LOCK, named).one_or_none()
        if account is None or account.stored is None:
            outcome = _judged(connection, command, content, account, now)
            if _is_written(connection, outcome):
                return _reply(outcome, duplicate=False)
        stored = connection.execute(_STORED, {"reference_id": command.reference_id}).one()
    if (stored.type, stored.user_id, stored.content) != (command.type, command.user_id, content):
        return _conflict(command)
    return _reply(stored._asdict(), duplicate=True)


@cache
def _make_numbers(engine: Engine) -> None:
    """Make the sequence, once a process."""
    with engine.begin() as connection:
        for statement in _NUMBERS:
            connection.exec_driver_sql(statement)


def _judged(
    connection: Connection, command: DeductUsage, content: str, account: Row[Any] | None, now: datetime
) -> Values:
    """Return the outcome and, where applied, the tokens taken from each lot."""
    outcome: Values = {
        **dict.fromkeys(("amount", "balance_before", "balance_after", "first_entry", "last_entry")),
        "slot": slot_of(command.user_id),
        "reference_id": command.reference_id,
        "type": command.type,
        "user_id": command.user_id,
        "attempt": command.attempt,
        "content": content,
        "occurred_at": command.occurred_at,
        "metadata": command.metadata,
        "description": command.description,
        "recorded_at": now,
        "detail": {},
    }
    if account is None:
        return outcome | {"status": Status.REJECTED, "code": Code.ACCOUNT_NOT_FOUND}
    if account.due_at is not None and account.due_at <= now:
        raise NotImplementedError(f"something is due on the account of {command.user_id}")
    standing = {name: value for name in ("held", "debt") if (value := getattr(account, name))}
    available = account.balance - account.held
    if command.tokens > available:
        return outcome | {
            "status": Status.REJECTED,
            "code": Code.INSUFFICIENT_BALANCE,
            "balance_before": account.balance,
            "balance_after": account.balance,
            "detail": {
                "required": command.tokens,
                "available": available,
                "shortfall": command.tokens - available,
                **standing,
            },
        }
    whose = {"account_id": account.account_id, "slot": outcome["slot"]}
    burning = connection.execute(_BURNING, whose).all()
    parts = _parts(burning, command.tokens)
    return outcome | {
        "status": Status.APPLIED,
        "code": Code.TOKENS_DEDUCTED,
        "amount": command.tokens,
        "balance_before": account.balance,
        "balance_after": account.balance - command.tokens,
        "detail": standing,
        "first_entry": account.sequence + 1,
        "last_entry": account.sequence + len(parts),
        "account_id": account.account_id,
        "lots": [lot for lot, _ in parts],
        "tokens": [tokens for _, tokens in parts],
    }


def _parts(burning: Sequence[Row[Any]], tokens: int) -> list[tuple[int, int]]:
    """Return the parts to take, as (lot, tokens), in burn order."""
    parts, left = [], tokens
    for lot in burning:
        if not left:
            break
        part = min(lot.free, left)
        parts.append((lot.number, part))
        left -= part
    return parts


def _is_written(connection: Connection, outcome: Values) -> bool:
    """Write ``outcome`` and set its id; return False where the reference has one already."""
    texts = {name: to_json(outcome[name]).decode() if outcome[name] else None for name in _JSON}
    statement = _APPLY if outcome["status"] is Status.APPLIED else _REFUSE
    numbers = {name: number_of(name, outcome[name]) for name in _NUMBERED}
    outcome["operation_id"] = connection.execute(statement, outcome | texts | numbers).scalars().first()
    return outcome["operation_id"] is not None


def _reply(outcome: Mapping[str, Any], *, duplicate: bool) -> bytes:
    reply = {
        "schemaVersion": SCHEMA_VERSION,
        "status": outcome["status"],
        "code": outcome["code"],
        "message": _message(outcome),
        "type": outcome["type"],
        "referenceId": outcome["reference_id"],
        "userId": outcome["user_id"],
        "attempt": outcome["attempt"],
        "duplicate": duplicate,
        "transactionId": str(outcome["operation_id"]),
        "unit": "tokens",
        "amount": outcome["amount"],
        "balanceBefore": outcome["balance_before"],
        "balanceAfter": outcome["balance_after"],
        "sequence": outcome["last_entry"],
        **(outcome["detail"] or {}),
        "recordedAt": outcome["recorded_at"],
    }
    return to_json({name: value for name, value in reply.items() if value is not None})


def _message(outcome: Mapping[str, Any]) -> str:
    detail = outcome["detail"]
    match outcome["code"]:
        case Code.TOKENS_DEDUCTED:
            amount, balance = map(human_amount, (outcome["amount"], outcome["balance_after"]))
            return f"Deducted {amount} tokens. Balance: {balance}"
        case Code.INSUFFICIENT_BALANCE:
            required = human_amount(detail["required"], round_up=True)
            available = human_amount(detail["available"])
            return f"Insufficient token balance. Required: {required}, Available: {available}"
        case _:
            return f"No token account for user {outcome['user_id']}"


def _conflict(command: DeductUsage) -> bytes:
    return to_json(
        {
            "schemaVersion": SCHEMA_VERSION,
            "status": Status.REJECTED,
            "code": Code.REFERENCE_CONFLICT,
            "message": f"The reference '{command.reference_id}' names another operation. Nothing moved.",
            "type": command.type,
            "referenceId": command.reference_id,
            "userId": command.user_id,
            "attempt": command.attempt,
            "duplicate": False,
        }
    )
