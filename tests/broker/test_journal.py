"""Reading of the journal: offsets, times, and messages as they were sent, on a real stream."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import pika
import pytest

from tests.support.rabbit_client import RabbitClient
from tests.support.short_quiet import short_quiet
from tests.support.waiting import eventually, past
from worker.broker import BILLING, JournalLimits, Link, Outgoing, open_link
from worker.broker.journal import Offsets, ReadsJournal, open_journal
from worker.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    short_quiet(monkeypatch)


@pytest.fixture
def link(broker_url: str) -> Iterator[Link]:
    link = open_link(broker_url)
    link.declare_journal(BILLING, JournalLimits())
    yield link
    link.close()


@pytest.fixture
def journal(link: Link, broker_url: str) -> Iterator[ReadsJournal]:
    journal = open_journal(broker_url, BILLING.journal)
    yield journal
    journal.close()


def usage(number: int, size: int = 1) -> Outgoing:
    return Outgoing(b"x" * size, "billing", "usage.deduct", {"message_id": f"m{number}"}, {"n": number})


def test_empty_journal_has_no_offsets(journal: ReadsJournal) -> None:
    assert journal.offsets() is None
    assert journal.offset_at(datetime.now(UTC) - timedelta(hours=1)) is None


def test_journal_is_read_in_order_to_the_offset_that_was_last(link: Link, journal: ReadsJournal) -> None:
    link.publish([usage(number) for number in range(1_200)])
    kept = journal.offsets()
    assert kept == Offsets(0, 1_199)
    link.publish([usage(number) for number in range(1_200, 1_300)])
    chunks = list(journal.read(5, kept.last))
    assert [message.offset for chunk in chunks for message in chunk] == list(range(5, 1_200))
    ids = [message.delivery.text("message_id") for chunk in chunks for message in chunk]
    assert ids == [f"m{number}" for number in range(5, 1_200)]
    assert all(len(chunk) <= 500 for chunk in chunks)
    assert journal.offsets() == Offsets(0, 1_299)


def test_last_offset_is_found_while_others_publish(
    link: Link, journal: ReadsJournal, broker_url: str
) -> None:
    link.publish([usage(number) for number in range(100)])
    enough = Event()

    def publish() -> None:
        with closing(open_link(broker_url)) as other:
            while not enough.wait(0.002):
                other.publish([usage(0)])

    publisher = Thread(target=publish)
    publisher.start()
    try:
        kept = [journal.offsets() for _ in range(3)]
    finally:
        enough.set()
        publisher.join()
    lasts = [each.last for each in kept if each is not None]
    assert 99 <= lasts[0] < lasts[1] < lasts[2]
    read = [message.offset for chunk in journal.read(0, lasts[2]) for message in chunk]
    assert read == list(range(lasts[2] + 1))


def test_large_messages_come_some_at_a_time(link: Link, journal: ReadsJournal) -> None:
    link.publish([usage(number, 256 * 1024) for number in range(60)])
    chunks = list(journal.read(0, 59))
    assert [message.offset for chunk in chunks for message in chunk] == list(range(60))
    assert max(sum(len(message.delivery.body) for message in chunk) for chunk in chunks) <= 4_500_000


def test_time_leads_to_what_was_sent_since(link: Link, journal: ReadsJournal) -> None:
    before = datetime.now(UTC)
    link.publish([usage(number) for number in range(10)])
    eventually(past(1.1))  # the broker's times have seconds
    between = datetime.now(UTC)
    eventually(past(1.1))
    link.publish([usage(number) for number in range(10, 20)])
    assert journal.offset_at(before) == 0
    assert journal.offset_at(between) == 10
    assert journal.offset_at(between + timedelta(days=1)) is None
    begins_at = journal.begins_at(Offsets(0, 19), datetime.now(UTC))
    assert begins_at is not None
    assert abs(begins_at - before) < timedelta(seconds=2)


def test_message_keeps_sender_route_and_plain_headers(rabbit: RabbitClient, journal: ReadsJournal) -> None:
    body = bytes(range(256))
    headers = {"a": 1, "b": "é", "nested": {"c": 1}, "x-stream-offset": 77, "x-exchange": "other"}
    rabbit.publish(
        body, routing_key="usage.deduct", exchange="billing.bulk", headers=headers, app_id="app", timestamp=5
    )
    ((message,),) = journal.read(0, 0)
    delivery = message.delivery
    assert (message.offset, delivery.exchange, delivery.routing_key) == (0, "billing.bulk", "usage.deduct")
    assert (delivery.body, delivery.text("user_id")) == (body, rabbit.user)
    assert (delivery.text("app_id"), delivery.properties["timestamp"]) == ("app", 5)
    assert {name: value for name, value in delivery.headers.items() if not name.startswith("x-")} == {
        "a": 1,
        "b": "é",
    }, "a stream keeps no tables and arrays"


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        (pika.BasicProperties, b"sentAtl", b"sentAtT"),
        (pika.BasicProperties, b"\x03abc", b"\x03\xff\xfe\xfd"),
        (pika.spec.Basic.Publish, b"usage.abc", b"usage.\xff\xfe\xfd"),
    ],
    ids=["a time in milliseconds", "an id that is not UTF-8", "a key that is not UTF-8"],
)
def test_message_that_nobody_can_read_has_its_offset(
    rabbit: RabbitClient,
    journal: ReadsJournal,
    monkeypatch: pytest.MonkeyPatch,
    part: Any,
    old: bytes,
    new: bytes,
) -> None:
    """It is the last one: an end that is taken for an earlier one would hide all that came between."""
    for number in range(3):
        rabbit.publish(b"readable", routing_key="usage.deduct", message_id=f"m{number}")
    encode: Callable[..., list[bytes]] = part.encode
    monkeypatch.setattr(part, "encode", lambda self: [b"".join(encode(self)).replace(old, new)])
    # The bytes of the broker's header stand in a value as well, and the header is forged.
    entry = b"\x0fx-stream-offsetl" + bytes(8)
    headers = {"a": entry.decode(), "b": [1, {"c": None}], "sentAt": 10**15, "x-stream-offset": 77}
    rabbit.publish(b"last", routing_key="usage.abc", message_id="abc", headers=headers, content_type="a/b")
    assert eventually(lambda: (kept := journal.offsets()) and kept.last == 3 and kept) == Offsets(0, 3)
    read = [message for chunk in journal.read(0, 3) for message in chunk]
    assert [message.offset for message in read] == [0, 1, 2, 3]
    assert read[-1].delivery.unreadable is not None
    ((alone,),) = journal.read(3, 3)
    assert (alone.offset, alone.delivery.body) == (3, b"last")


def test_reader_without_a_journal_names_the_way_out(broker_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"topology declare --journal"):
        open_journal(broker_url, BILLING.journal)
