"""Operations are listed newest first, page by page: a filter in Python finds the same in a random world."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select

from schemas import Command, DeductUsage, OpenAccount
from tests.support.apply_commands import applied
from tests.support.strategies import OPENING_CATALOG
from tests.support.worlds import USERS, day_of
from worker.catalog import Catalog
from worker.core import Outcome
from worker.errors import NotFoundError, QueryError
from worker.ledger import rows
from worker.ledger.queries import operation_totals as operation_totals_module
from worker.ledger.queries import operation_walk, snapshot
from worker.ledger.queries.bounded import bounded_reading
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_totals import OperationTotals, SpentBy, operation_totals, top_spenders
from worker.ledger.queries.operations import OperationLine, operation_page, tokens_of
from worker.ledger.queries.senders import SenderView, senders_of
from worker.ledger.senders import UNNAMED, Sender
from worker.ledger.tables import operations

_SENDERS = (UNNAMED, Sender("app", ""), Sender("app", "uploads"), Sender("bridge", "app"))
_METADATA: Sequence[dict[str, Any] | None] = (None, {"job": 17}, {"job": "17", "ok": True}, {"ok": "no"})
_FEATURES = (None, "ocr", "search", 'a "quoted" one')


def _decorated(command: Command, random: Random) -> Command:
    """Return the command with metadata, and a feature where it can have one."""
    own: dict[str, Any] = {"metadata": random.choice(_METADATA)}
    if isinstance(command, DeductUsage):
        own["feature"] = random.choice(_FEATURES)
    return command.model_copy(update=own)


def _live(engine: Engine, seed: int) -> None:
    random = Random(seed)
    for now, batch in day_of(seed, batches=40):
        commands = [_decorated(command, random) for command in batch]
        applied(engine, OPENING_CATALOG, *commands, now=now, sender=random.choice(_SENDERS))


class _Known:
    """All operations of a ledger, read without a filter."""

    def __init__(self, connection: Connection) -> None:
        found = connection.execute(select(operations).where(~operations.c.is_taken)).all()
        self.outcomes = sorted(map(rows.outcome, found), key=lambda one: one.recorded_at, reverse=True)
        self.senders = senders_of(connection, self.outcomes)

    def wanted(self, wanted: OperationFilter) -> list[Outcome]:
        return [one for one in self.outcomes if all(self._answers(one, wanted))]

    def _answers(self, one: Outcome, wanted: OperationFilter) -> Iterator[bool]:
        yield wanted.user_id in (None, one.user_id)
        yield wanted.status in (None, one.status.value)
        yield not wanted.types or one.type in wanted.types
        yield not wanted.codes or one.code.value in wanted.codes
        yield one.reference_id.startswith(wanted.reference_prefix or "")
        yield wanted.since is None or one.recorded_at >= wanted.since
        yield wanted.until is None or one.recorded_at < wanted.until
        yield wanted.sender is None or self._is_sender(one, wanted.sender)
        yield wanted.feature is None or self.feature(one) == wanted.feature
        for name, value in wanted.metadata:
            kept = (one.metadata or {}).get(name)
            yield (kept if isinstance(kept, str) else json.dumps(kept)) == value
        tokens = tokens_of(one)
        yield wanted.min_tokens is None or (tokens is not None and abs(tokens) >= wanted.min_tokens)
        yield wanted.max_tokens is None or (tokens is not None and abs(tokens) <= wanted.max_tokens)

    def _is_sender(self, one: Outcome, name: str) -> bool:
        sender = self.senders.get(one.sender_id)
        return sender is not None and name in (sender.broker_user, sender.application, str(sender))

    def spent(self, by: SpentBy, found: Sequence[Outcome]) -> dict[str | None, tuple[int, int]]:
        """Return the tokens that usage took, and its number, by user, feature or sender."""
        groups: dict[str | None, tuple[int, int]] = {}
        for one in found:
            if one.is_applied and one.type.startswith("usage."):
                name = _NAME_OF[by](self, one)
                tokens, count = groups.get(name, (0, 0))
                groups[name] = tokens - (tokens_of(one) or 0), count + 1
        return {name: spent for name, spent in groups.items() if spent[0]}

    def sender_name(self, one: Outcome) -> str | None:
        sender = self.senders.get(one.sender_id)
        return None if sender is None else str(sender)

    @staticmethod
    def feature(one: Outcome) -> str | None:
        content = json.loads(one.content)
        if one.type not in ("usage.deduct", "usage.record", "usage.settle"):
            return None
        feature: str | None = content.get("feature") or content.get("meter")
        return feature

    def some_filter(self, random: Random) -> OperationFilter:
        """Return a filter that finds some of these operations, mostly."""
        one = random.choice(self.outcomes)
        sender: SenderView | None = self.senders.get(one.sender_id)
        metadata = [
            (name, v if isinstance(v, str) else json.dumps(v)) for name, v in (one.metadata or {}).items()
        ]
        tokens = abs(tokens_of(one) or 0)
        every: dict[str, Any] = {
            "user_id": one.user_id if one.user_id else random.choice(USERS),
            "types": frozenset({one.type, random.choice(self.outcomes).type}),
            "status": one.status.value,
            "codes": frozenset({one.code.value}),
            "sender": None
            if sender is None
            else random.choice([n for n in (sender.broker_user, sender.application, str(sender)) if n]),
            "feature": self.feature(one),
            "metadata": tuple(metadata[:1]),
            "reference_prefix": one.reference_id[: random.randint(1, 5)],
            "min_tokens": tokens,
            "max_tokens": tokens + random.choice((0, 50)),
            "since": one.recorded_at - timedelta(days=random.choice((0, 1, 40))),
            "until": one.recorded_at + timedelta(microseconds=random.choice((0, 1, 10**12))),
        }
        names = random.sample(sorted(every), random.choice((0, 1, 1, 2, 2, 3)))
        return OperationFilter(**{name: every[name] for name in names})


_NAME_OF: dict[SpentBy, Callable[[_Known, Outcome], str | None]] = {
    "user": lambda _, one: one.user_id,
    "feature": lambda _, one: _Known.feature(one),
    "sender": _Known.sender_name,
}


def _pages(connection: Connection, wanted: OperationFilter, limit: int) -> list[OperationLine]:
    found: list[OperationLine] = []
    cursor: str | None = None
    reached: datetime | None = None
    while True:
        page = operation_page(connection, wanted, limit, cursor)
        found += page.operations
        assert len(page.operations) <= limit
        if page.looked_back_to is not None:
            assert len(page.operations) < limit
            assert reached is None or page.looked_back_to <= reached
            reached = page.looked_back_to
        if (cursor := page.next_cursor) is None:
            return found


@pytest.mark.parametrize("seed", range(2))
def test_pages_have_what_a_filter_in_python_finds(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_walk, "_FIRST_WINDOW", 10)
    monkeypatch.setattr(operation_walk, "_GROWTH", 2)
    monkeypatch.setattr(operation_walk, "SCANNED_MAX", 40)
    monkeypatch.setattr(operation_walk, "PREFIXED_MAX", 60)
    _live(engine, seed)
    random = Random(seed)
    with snapshot(engine) as connection:
        known = _Known(connection)
        for _ in range(30):
            wanted, limit = known.some_filter(random), random.choice((2, 5, 200))
            found = _pages(connection, wanted, limit)
            expected = known.wanted(wanted)
            assert sorted(one.reference_id for one in found) == sorted(
                one.reference_id for one in expected
            ), wanted
            times = [one.recorded_at for one in found]
            assert times == sorted(times, reverse=True), wanted
            assert operation_totals(connection, wanted) == _totals(expected), wanted
            by = random.choice(tuple(_NAME_OF))
            spenders = top_spenders(connection, wanted, by).spenders
            assert {one.name: (one.tokens, one.operations) for one in spenders} == known.spent(by, expected)
            assert [one.tokens for one in spenders] == sorted((one.tokens for one in spenders), reverse=True)


def _totals(found: Sequence[Outcome], rate: int = 1) -> OperationTotals:
    moved = [tokens for one in found if (tokens := tokens_of(one)) is not None]
    applied_ones = sum(one.is_applied for one in found)
    return OperationTotals(
        count=rate * len(found),
        applied=rate * applied_ones,
        rejected=rate * (len(found) - applied_ones),
        tokens_taken=rate * -sum(tokens for tokens in moved if tokens < 0),
        tokens_given=rate * sum(tokens for tokens in moved if tokens > 0),
        codes={code: rate * count for code, count in Counter(one.code.value for one in found).items()},
        is_counted=rate == 1,
    )


def test_many_operations_are_estimated_from_a_sample(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_totals_module, "COUNTED_MAX", -1)  # no sample of these has fewer
    _live(engine, 1)
    with snapshot(engine) as connection:
        known = _Known(connection)
        sampled = [one for one in known.outcomes if (one.transaction_id or 0) % 31 == 0]
        assert operation_totals(connection, OperationFilter()) == _totals(sampled, rate=31)
        monkeypatch.setattr(operation_totals_module, "COUNTED_MAX", 2)
        with pytest.raises(QueryError, match=r"entries in this time, and 2 can be counted") as refused:
            operation_totals(connection, OperationFilter(user_id="u0"))
    assert refused.value.field == "since"


def test_user_of_whom_nothing_is_known_is_an_error(engine: Engine) -> None:
    with snapshot(engine) as connection, pytest.raises(NotFoundError, match="'nobody'"):
        operation_page(connection, OperationFilter(user_id="nobody"))


def test_user_without_account_has_rejected_operations(engine: Engine, catalog: Catalog) -> None:
    applied(engine, catalog, DeductUsage(reference_id="poor", user_id="ann", tokens=5))
    with snapshot(engine) as connection:
        (line,) = operation_page(connection, OperationFilter(user_id="ann")).operations
        (spent,) = operation_totals(connection, OperationFilter(user_id="ann")).codes.items()
    assert (line.code, line.tokens, line.balance_after) == ("account_not_found", None, None)
    assert spent == ("account_not_found", 1)


def test_sender_that_sent_nothing_is_an_error_with_the_known_ones(engine: Engine, catalog: Catalog) -> None:
    opening = OpenAccount(reference_id="open", user_id="ann", tier="free")
    applied(engine, catalog, opening, sender=Sender("app", "uploads"))
    with snapshot(engine) as connection, pytest.raises(QueryError) as refused:
        operation_page(connection, OperationFilter(sender="ap"))
    assert str(refused.value) == "nothing came from the sender 'ap'; there are app (uploads)"
    assert refused.value.field == "sender"


@pytest.mark.parametrize("cursor", ["x", "MC4x", "é", "MC4xLjEuMQ"])
def test_cursor_of_another_list_is_refused(engine: Engine, cursor: str) -> None:
    with snapshot(engine) as connection, pytest.raises(QueryError, match="none of this list's") as refused:
        operation_page(connection, OperationFilter(), cursor=cursor)
    assert refused.value.field == "cursor"


def test_database_that_takes_too_long_is_an_error_that_says_what_to_do(postgres_engine: Engine) -> None:
    with pytest.raises(QueryError, match="within 15 s: narrow the time, or name a user"):
        _wait_too_long(postgres_engine)


def _wait_too_long(engine: Engine) -> None:
    with snapshot(engine) as connection, bounded_reading(connection):
        connection.exec_driver_sql("SET LOCAL statement_timeout = 20")
        connection.exec_driver_sql("SELECT pg_sleep(60)")
