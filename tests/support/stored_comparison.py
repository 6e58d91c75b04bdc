"""Comparison of the rows of a database with the model: what is stored must be what the model keeps."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, Row, Table, select

from tests.support.model import Model
from worker.ledger.tables import accounts, holds, lots, payment_events, payment_names, waiting_events


def assert_stored_like_the_model(engine: Engine, model: Model, prefix: str) -> None:
    """Fail the test unless balances, lots, holds and payment events of the users with a prefix are equal."""
    kept = {row.user_id: row for row in _rows(engine, accounts, prefix)}
    users = {row.account_id: user for user, row in kept.items()}
    assert {user: row.balance for user, row in kept.items()} == model.balances()
    for user, row in kept.items():
        assert (row.tier, row.held, row.debt) == (model.tier(user), model.held(user), model.debt(user))
        due = model.next_due(user)
        assert due is None or row.due_at <= due
    stored_lots, stored_holds = _rows(engine, lots, prefix), _rows(engine, holds, prefix)
    assert _by_user(stored_lots, users, _as_lot) == {user: model.lots(user) for user in kept}
    assert _by_user(stored_holds, users, _as_hold) == {
        user: sorted(map(_end_of, model.holds(user)), key=lambda hold: str(hold["reference"]))
        for user in kept
    }
    collected = [
        (row.reference_id, row.happened, row.collected, row.uncollected)
        for row in _rows(engine, payment_events, prefix)
    ]
    assert sorted(collected) == sorted(
        (event["referenceId"], event["happened"], event["collected"], event["uncollected"])
        for event in model.payment_events
    )
    _assert_names_like_the_model(engine, model, prefix)


def _assert_names_like_the_model(engine: Engine, model: Model, prefix: str) -> None:
    """Fail the test unless payments have the names that the model gives them, and the same events wait."""
    name, event = payment_names.c, waiting_events.c
    bound = select(name.name, name.payment_reference).where(
        name.name.startswith(prefix), name.payment_reference.is_not(None)
    )
    waits = select(event.reference_id, event.name, event.reason).where(event.name.startswith(prefix))
    with engine.connect() as connection:
        names = {row.name: row.payment_reference for row in connection.execute(bound)}
        waiting = {(row.reference_id, row.name): row.reason for row in connection.execute(waits)}
    assert names == model.payment_names
    expected = {(one["referenceId"], one["payment"]): _reason(model, one) for one in model.waiting_events}
    # A name that a copy taught has its reason once somebody looks: the audit finds who was left out then.
    looked_at = {key: expected[key] for key, reason in waiting.items() if reason is not None}
    assert waiting == {**dict.fromkeys(expected), **looked_at}


def _reason(model: Model, event: dict[str, Any]) -> str | None:
    """The reason why an event waits for ever although its payment is there: another currency."""
    paid = next(
        (p for p in model.payments if p["referenceId"] == model.payment_names.get(event["payment"])), None
    )
    if paid is None or event["happened"] not in ("refunded", "refunded_total"):
        return None
    return "currency_mismatch" if paid["currency"] != event["currency"] else None


def _rows(engine: Engine, table: Table, prefix: str) -> Sequence[Row[Any]]:
    own = accounts.c.user_id.startswith(prefix)
    found = select(table) if table is accounts else select(table).join(accounts)
    with engine.connect() as connection:
        return connection.execute(found.where(own)).all()


def _by_user(
    rows: Sequence[Row[Any]], users: dict[int, str], shown: Callable[[Row[Any]], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {user: [] for user in users.values()}
    for row in rows:
        found[users[row.account_id]].append(shown(row))
    for of_user in found.values():
        of_user.sort(key=lambda row: (row.get("number"), row.get("reference")))
    return found


def _as_lot(row: Row[Any]) -> dict[str, Any]:
    return {
        "number": row.number,
        "source": row.source,
        "granted": row.granted,
        "remaining": row.remaining,
        "held": row.held,
        "pending": row.pending,
        "priority": row.priority,
        "effectiveAt": row.effective_at,
        "expiresAt": row.expires_at,
        "parent": row.parent,
        "isNoticed": row.is_noticed,
        "endedAt": row.ended_at,
    }


def _as_hold(row: Row[Any]) -> dict[str, Any]:
    return {
        "reference": row.reference_id,
        "amount": row.amount,
        "state": row.state,
        "captured": row.captured,
        "expiresAt": row.expires_at,
        "closedAt": row.closed_at,
        "isDispute": row.is_dispute,
    }


def _end_of(hold: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in hold.items() if name not in ("parts", "openedAt")}
