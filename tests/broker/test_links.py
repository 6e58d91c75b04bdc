"""Behaviour that the worker needs of a broker: one suite for RabbitMQ, the embedded one and the fake."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.fake_broker import FakeBroker
from tests.support.fakes import FakeLink
from tests.support.waiting import eventually
from worker.broker import BILLING, BulkShare, Delivery, Link, Outgoing, open_link
from worker.broker.deliveries import BATCH_MAX_BYTES
from worker.messages.outgoing import OutgoingDirectReply

PAYMENTS, USAGE, BULK = (queue.name for queue in BILLING.work)

Connect = Callable[..., Link]


@pytest.fixture(params=["fake", "embedded", "rabbitmq"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, int]], Link]:
    """Return a function that opens a link to the same broker each time."""
    match request.param:
        case "fake":
            broker = FakeBroker()
            return lambda consume: FakeLink(broker=broker, consume=consume)
        case "embedded":
            url = f"sqla+sqlite:///{tmp_path / 'broker.sqlite3'}"
        case _:
            url = request.getfixturevalue("broker_url")
    return lambda consume: open_link(url, consume=list(consume), prefetch=consume, bulk=BULK)


@pytest.fixture
def connect(opened: Callable[[dict[str, int]], Link]) -> Iterator[Connect]:
    """Open links to one broker; close them at the end."""
    links: list[Link] = []

    def open_one(*queues: str, prefetch: int = 1000) -> Link:
        links.append(opened(dict.fromkeys(queues, prefetch)))
        return links[-1]

    yield open_one
    for link in links:
        link.close()


def usage(number: int) -> Outgoing:
    return Outgoing(
        f'{{"n":{number}}}'.encode(), "billing", "usage.deduct", {"message_id": f"m{number}"}, {"n": number}
    )


def in_bulk(number: int) -> Outgoing:
    return replace(usage(number), exchange=BILLING.bulk_exchange)


def received(link: Link, count: int) -> list[Delivery]:
    """Return the next ``count`` deliveries, received in batches as they come."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        batch = link.receive(count - len(deliveries), 10.0)
        assert batch, f"{len(deliveries)} of {count} came"
        deliveries += batch
    return deliveries


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def test_a_message_arrives_as_it_was_sent(connect: Connect) -> None:
    link = connect(PAYMENTS, USAGE)
    body = bytes(range(256))
    properties = {
        "message_id": "m",
        "correlation_id": "c",
        "reply_to": "billing.replies.x",
        "content_type": "application/json",
        "type": "t",
        "app_id": "a",
    }
    sent = [Outgoing(body, "billing", "usage.deduct", properties, {"a": 1, "b": "ä"})]
    assert link.publish(sent).accepted == sent
    (delivery,) = received(link, 1)
    assert delivery.body == body
    assert (delivery.queue, delivery.exchange, delivery.routing_key) == (USAGE, "billing", "usage.deduct")
    assert {name: delivery.text(name) for name in properties} == properties
    assert dict(delivery.headers) == {"a": 1, "b": "ä"}
    assert (delivery.delivery_count, delivery.unreadable) == (0, None)


def test_lost_direct_reply_is_not_returned(connect: Connect) -> None:
    link = connect()
    lost = OutgoingDirectReply(b"{}", "", "amq.rabbitmq.reply-to.gone")
    kept = Outgoing(b"{}", "", "billing.replies")
    assert link.publish([lost, kept]).accepted == [lost, kept]
    assert link.depth("billing.replies") == 1


def test_an_empty_body_is_no_bytes(connect: Connect) -> None:
    link = connect(USAGE)
    link.publish([Outgoing(b"", "billing", "usage.deduct")])
    assert received(link, 1)[0].body == b""


def test_a_queue_keeps_its_order(connect: Connect) -> None:
    link = connect(USAGE)
    messages = [usage(n) for n in range(50)]
    link.publish(messages)
    assert bodies(received(link, 50)) == [message.body for message in messages]


def test_payments_come_before_the_usage_they_pay_for(connect: Connect) -> None:
    publisher = connect()
    publisher.publish([usage(1), usage(2), Outgoing(b"money", "billing", "payment.succeeded")])
    link = connect(PAYMENTS, USAGE)
    first = link.receive(1, 10.0)
    rest = received(link, 2)
    # Both queues push at once: the first batch may come before the payment, a later one comes after it.
    assert b"money" in bodies([*first, rest[0]])


def test_batch_takes_arrived_messages_up_to_its_size(connect: Connect) -> None:
    link = connect(USAGE)
    link.publish([usage(n) for n in range(7)])
    batch = received(link, 3)
    assert len(batch) == 3
    assert bodies(received(link, 4)) == [usage(n).body for n in range(3, 7)]


def test_large_messages_come_in_smaller_batches(connect: Connect) -> None:
    link = connect(PAYMENTS, USAGE)
    sizes = [200_000, 200_000, 200_000, 100, 600_000, 100, 100]
    link.publish([Outgoing(b"x" * size, "billing", "usage.batch") for size in sizes])
    link.publish([Outgoing(b"x" * 500_000, "billing", "payment.succeeded")])
    batches: list[list[Delivery]] = []
    while sum(map(len, batches)) < 8:
        batches.append(link.receive(100, 10.0))
        assert batches[-1], f"{batches} is all that came"
    arrived = [delivery for batch in batches for delivery in batch]
    assert [len(delivery.body) for delivery in arrived if delivery.queue == USAGE] == sizes
    for batch in batches:
        assert sum(len(delivery.body) for delivery in batch[:-1]) < BATCH_MAX_BYTES


def test_message_without_a_bound_queue_is_returned(connect: Connect) -> None:
    link = connect(USAGE)
    unheard = Outgoing(b"{}", BILLING.events, "balance.low", {"message_id": "n"})
    result = link.publish([first := usage(1), unheard, last := usage(2)])
    assert (result.accepted, result.returned, list(result.refused)) == ([first, last], [unheard], [])
    assert bodies(received(link, 2)) == [usage(1).body, usage(2).body]


def test_listener_gets_every_notice_and_nothing_else(connect: Connect) -> None:
    first = connect()
    first.listen("billing.heard")
    publisher, listener = connect(), connect("billing.heard")
    notices = [Outgoing(key.encode(), BILLING.events, key) for key in ("balance.low", "credit.expiring")]
    assert not publisher.publish([usage(1), *notices]).returned
    heard = received(listener, 2)
    assert [(delivery.body.decode(), delivery.routing_key) for delivery in heard] == [
        ("balance.low", "balance.low"),
        ("credit.expiring", "credit.expiring"),
    ]
    assert listener.receive(10, 0.05) == []


def test_deleted_listener_gets_no_notice(connect: Connect) -> None:
    link = connect()
    link.listen("billing.heard")
    link.delete("billing.heard")
    unheard = Outgoing(b"{}", BILLING.events, "balance.low")
    assert connect().publish([unheard]).returned == [unheard]


def test_topology_names_the_queue_of_each_type(connect: Connect) -> None:
    from schemas import MESSAGE_TYPES

    link = connect(PAYMENTS, USAGE)
    link.publish([Outgoing(type_.encode(), "billing", type_) for type_ in MESSAGE_TYPES])
    for delivery in received(link, len(MESSAGE_TYPES)):
        assert BILLING.queue_of(delivery.body.decode()).name == delivery.queue


def test_empty_queue_delivers_nothing(connect: Connect) -> None:
    assert connect(USAGE).receive(10, 0.01) == []


def test_unacknowledged_deliveries_come_again(connect: Connect) -> None:
    first = connect(USAGE)
    first.publish([usage(n) for n in range(4)])
    deliveries = received(first, 4)
    first.acknowledge([deliveries[0], deliveries[2]])  # with a hole
    first.close()
    second = connect(USAGE)
    assert sorted(bodies(received(second, 2))) == [usage(1).body, usage(3).body]
    assert second.receive(10, 0.05) == []


def test_acknowledging_a_front_and_then_the_rest_leaves_nothing(connect: Connect) -> None:
    first = connect(USAGE)
    first.publish([usage(n) for n in range(6)])
    deliveries = received(first, 6)
    for group in (deliveries[4:5], deliveries[0:2], deliveries[5:6], deliveries[2:4]):
        first.acknowledge(group)
    first.publish([usage(6)])
    first.acknowledge(received(first, 1))  # the channel is still good
    first.close()
    assert connect(USAGE).receive(10, 0.05) == []


def test_link_holds_no_more_than_its_prefetch(connect: Connect) -> None:
    link = connect(USAGE, prefetch=3)
    link.publish([usage(n) for n in range(5)])
    held = received(link, 3)
    assert link.receive(10, 0.1) == []
    link.acknowledge(held)
    assert len(received(link, 2)) == 2


def test_declared_topology_has_no_differences(connect: Connect) -> None:
    link = connect()
    link.declare(BILLING)
    assert link.differences(BILLING) == []


def test_depth_counts_waiting_messages(connect: Connect) -> None:
    link = connect()
    link.publish([usage(n) for n in range(3)])
    assert link.depth(USAGE) == 3
    assert link.depth(PAYMENTS) == 0


def test_every_type_of_command_has_a_queue(connect: Connect) -> None:
    from schemas import COMMAND_TYPES

    link = connect(PAYMENTS, USAGE)
    assert not link.publish([Outgoing(type_.encode(), "billing", type_) for type_ in COMMAND_TYPES]).returned
    arrived = {delivery.body.decode(): delivery.queue for delivery in received(link, len(COMMAND_TYPES))}
    assert arrived == {type_: USAGE if type_.startswith("usage.") else PAYMENTS for type_ in COMMAND_TYPES}


def test_keep_alive_keeps_deliveries_that_arrive_meanwhile(connect: Connect) -> None:
    link = connect(USAGE)
    link.publish([usage(1)])
    link.keep_alive(0.1)
    assert bodies(received(link, 1)) == [usage(1).body]


def test_larger_prefetch_brings_more_in_order(connect: Connect) -> None:
    connect().publish([usage(number) for number in range(10)])
    link = connect(PAYMENTS, USAGE, prefetch=2)
    first = received(link, 2)
    assert link.receive(10, 0.2) == []
    link.hold_at_most(USAGE, 5)
    more = received(link, 3)
    assert link.receive(10, 0.2) == []
    link.acknowledge([*first, *more])
    assert bodies([*first, *more, *received(link, 5)]) == [b'{"n":%d}' % number for number in range(10)]


def test_queue_with_prefetch_zero_waits(connect: Connect) -> None:
    connect().publish([usage(number) for number in range(3)])
    link = connect(PAYMENTS, USAGE, prefetch=3)
    received(link, 1)
    link.hold_at_most(USAGE, 0, give_back=True)
    assert link.receive(10, 0.2) == []
    link.hold_at_most(USAGE, 10)
    assert len(received(link, 3)) == 3


def test_deliveries_given_back_come_again_and_other_queues_keep_theirs(connect: Connect) -> None:
    payment = Outgoing(b"{}", "billing", "payment.succeeded", {"message_id": "p"})
    connect().publish([payment, *(usage(number) for number in range(5))])
    link = connect(PAYMENTS, USAGE)
    held = received(link, 6)
    link.hold_at_most(USAGE, 1, give_back=True)
    again = received(link, 1)
    assert bodies(again) == [b'{"n":0}']
    assert link.receive(10, 0.2) == []
    link.acknowledge([*again, *(one for one in held if one.queue == PAYMENTS)])
    link.hold_at_most(USAGE, 10)
    assert sorted(bodies(received(link, 4))) == [b'{"n":%d}' % number for number in range(1, 5)]


def test_giving_back_deliveries_under_way_logs_nothing(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect().publish([usage(number) for number in range(1_000)])
    link = connect(USAGE, prefetch=1_000)
    received(link, 1)
    link.hold_at_most(USAGE, 0, give_back=True)
    assert caplog.records == []


def test_messages_arrive_in_order_while_the_prefetch_grows(connect: Connect) -> None:
    publisher, ended = connect(), Event()

    def publish() -> None:
        for number in range(0, 600, 3):
            publisher.publish([usage(number + each) for each in range(3)])
        ended.set()

    thread = Thread(target=publish)
    link = connect(USAGE, prefetch=1)
    thread.start()
    taken: list[Delivery] = []
    most = 1
    while len(taken) < 600:
        some = link.receive(50, 5.0)
        assert some or not ended.is_set(), f"{len(taken)} of 600 came"
        link.acknowledge(some)
        taken += some
        if most < 300:
            link.hold_at_most(USAGE, most := most + 20)
    thread.join()
    assert bodies(taken) == [b'{"n":%d}' % number for number in range(600)]


# -- bulk -------------------------------------------------------------------------------------------------


def test_bulk_exchange_leads_to_the_bulk_queue_alone(connect: Connect) -> None:
    link = connect(USAGE, BULK)
    payment = replace(in_bulk(0), routing_key="payment.succeeded")
    assert link.publish([in_bulk(1), usage(2), payment]).returned == [payment]
    assert sorted((one.queue, one.body) for one in received(link, 2)) == [
        (BULK, b'{"n":1}'),
        (USAGE, b'{"n":2}'),
    ]


def test_bulk_comes_behind_the_others_and_within_its_share(connect: Connect) -> None:
    connect().publish([*map(in_bulk, range(60)), *map(usage, range(60))])
    link, share = connect(USAGE, BULK), BulkShare(BULK, 2, 4)
    taken: list[Delivery] = []
    while len(taken) < 120:
        batch = link.receive(20, 10.0, share)
        assert batch, f"{len(taken)} of 120 came"
        of_bulk = [one.queue == BULK for one in batch]
        assert of_bulk == sorted(of_bulk), "bulk stands last"
        assert sum(of_bulk) <= share.most
        taken += batch
        link.acknowledge(batch)
    for queue in (USAGE, BULK):
        assert bodies([one for one in taken if one.queue == queue]) == [b'{"n":%d}' % n for n in range(60)]


def test_message_behind_a_full_prefetch_of_bulk_is_received(connect: Connect) -> None:
    """Queues that share a socket would keep it behind what the broker sent before."""
    publisher, link = connect(), connect(USAGE, BULK, prefetch=300)
    publisher.publish([*map(in_bulk, range(300))])
    eventually(lambda: len(link.receive(1, 0.1, BulkShare(BULK, 1, 1))) == 1)
    publisher.publish([usage(1)])
    nothing_of_bulk = BulkShare(BULK, 0, 0)
    (found,) = eventually(lambda: link.receive(20, 0.1, nothing_of_bulk))
    assert found.queue == USAGE


def test_queue_is_consumed_later_quiesced_and_left(connect: Connect) -> None:
    publisher, link = connect(), connect(PAYMENTS)
    publisher.publish([*map(usage, range(5))])
    link.consume(USAGE, 3)
    held = received(link, 3)
    assert link.held_of(USAGE) == 3
    link.quiesce(USAGE)
    link.acknowledge(held[:2])
    link.acknowledge(held[2:])
    assert link.held_of(USAGE) == 0
    assert link.receive(5, 0.0) == [], "it takes nothing more"
    link.leave(USAGE)
    assert bodies(received(connect(USAGE), 2)) == [b'{"n":3}', b'{"n":4}']


def test_message_held_of_a_queue_that_is_left_goes_back_to_its_place(connect: Connect) -> None:
    link = connect(PAYMENTS)
    connect().publish([*map(usage, range(5))])
    link.consume(USAGE, 5)
    link.acknowledge(received(link, 5)[:2])
    link.leave(USAGE)
    again = received(connect(USAGE), 3)
    assert bodies(again) == [b'{"n":2}', b'{"n":3}', b'{"n":4}']
    link.consume(USAGE, 5)
    assert link.held_of(USAGE) == 0
