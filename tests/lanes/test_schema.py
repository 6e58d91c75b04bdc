"""Pause of all lanes because the schema isn't for the worker's version."""

import logging
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from tests.support.fake_stop import FakeStop
from tests.support.fakes import FakePauses
from worker.errors import LedgerUnavailableError, LimitExceededError, UnusableSchemaError
from worker.lanes.schema import LOOK_EVERY_S, SchemaPause
from worker.metrics import Metrics
from worker.runtime.backoff import Backoff

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LANES = ["billing.payments", "billing.usage"]


@dataclass
class Schema:
    """Schema that answers with ``errors``, one after the other, and fits then."""

    errors: list[Exception] = field(default_factory=list)
    now_s: float = 0.0

    def require(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


@dataclass
class Paused:
    """A pause with its parts."""

    schema: Schema
    record: FakePauses = field(default_factory=FakePauses)
    metrics: Metrics = field(default_factory=Metrics)
    stop: FakeStop = field(default_factory=FakeStop)

    def __post_init__(self) -> None:
        self.pause = SchemaPause(
            self.schema.require,
            LANES,
            self.record,
            worker="w",
            config="c",
            clock=lambda: NOW,
            metrics=self.metrics,
            seconds=lambda: self.schema.now_s,
        )

    def await_usable(self, *, exits: bool = False) -> None:
        self.pause.await_usable(Backoff(0.1, 5, random.Random(1)), self.stop, exits=exits)


def unusable(text: str = "schema 0020 isn't for version 0.3.0", count: int = 1) -> list[Exception]:
    return [UnusableSchemaError(text)] * count


def test_all_lanes_pause_with_a_reason_until_the_schema_fits(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[list[tuple[str, str, str]]] = []
    paused = Paused(Schema(unusable(count=3)))
    paused.stop.on_wait = lambda: seen.append(
        [(one.queue, one.code, one.text) for one in paused.record.lasting.values()]
    )
    with caplog.at_level(logging.WARNING):
        paused.await_usable()
    text = "schema 0020 isn't for version 0.3.0"
    assert seen == [[(lane, "schema_unusable", text) for lane in LANES]] * 3
    assert paused.record.lasting == {}
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]


def test_pause_that_an_operator_ended_begins_again_while_the_schema_does_not_fit() -> None:
    paused = Paused(Schema(unusable(count=2)))
    paused.stop.on_wait = lambda: paused.record.resumed.update({1, 2})
    paused.await_usable()
    assert paused.stop.waited_s
    assert paused.record.lasting == {}


def test_stop_ends_the_pause_and_its_record() -> None:
    paused = Paused(Schema(unusable(count=100)))
    paused.stop.on_wait = lambda: setattr(paused.stop, "requested", len(paused.stop.waited_s) > 3)
    paused.await_usable()
    assert len(paused.record.lasting) == len(LANES)
    paused.pause.end()
    assert paused.record.lasting == {}


def test_worker_that_exits_on_a_limit_exits_instead_of_a_pause() -> None:
    with pytest.raises(LimitExceededError, match="stopped: schema 0020 isn't"):
        Paused(Schema(unusable())).await_usable(exits=True)


def test_outage_is_left_to_who_waits_those_out() -> None:
    paused = Paused(Schema([*unusable(), LedgerUnavailableError("down")]))
    with pytest.raises(LedgerUnavailableError):
        paused.await_usable()
    paused.await_usable()
    assert paused.record.lasting == {}


def test_running_worker_looks_again_after_a_while() -> None:
    paused = Paused(Schema())
    assert not paused.pause.is_due
    paused.schema.now_s = LOOK_EVERY_S
    assert paused.pause.is_due
    paused.pause.look()
    assert not paused.pause.is_due
