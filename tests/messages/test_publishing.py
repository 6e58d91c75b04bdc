"""Publishing: what comes next for a message of each kind, by the broker's answer."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from schemas import DeadLetterReason, Notice
from tests.support.fakes import FakeLink, delivery
from tests.support.own_user import OWN_POLICY
from worker.broker import BILLING
from worker.errors import BrokerUnavailableError
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.outgoing import (
    OutgoingDeadLetter,
    OutgoingDirectReply,
    OutgoingNotice,
    OutgoingReply,
    OutgoingResponse,
)
from worker.messages.policy import Policy
from worker.messages.publishing import Publisher
from worker.messages.replies import Replies
from worker.metrics import Metrics

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
DEAD, DEFAULT, DIRECT = BILLING.dead.name, Policy().reply_queue, "amq.rabbitmq.reply-to.x"
NOTICE = Notice(type="balance.low", id="n", user_id="ann", reference_id="r", recorded_at=NOW)

Kind = Callable[[], OutgoingResponse]


def reply(queue: str = "billing.replies.app") -> OutgoingReply:
    return OutgoingReply(b"{}", "", queue)


def direct_reply() -> OutgoingDirectReply:
    return OutgoingDirectReply(b"{}", "", DIRECT)


def notice() -> OutgoingNotice:
    return OutgoingNotice(b"no JSON", BILLING.events, NOTICE.type, notice=NOTICE)


def dead_letter() -> OutgoingDeadLetter:
    failure = Failure(DeadLetterReason.NOT_JSON, "no JSON")
    return dead_letter_for(delivery(b"x"), failure, OWN_POLICY, tries=1, now=NOW)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def publisher(metrics: Metrics) -> Publisher:
    return Publisher(Policy(), Replies(Policy()), metrics)


ALL = (reply, direct_reply, notice, dead_letter)


@pytest.mark.parametrize("kind", ALL)
def test_accepted_message_is_done(publisher: Publisher, kind: Kind) -> None:
    messages = [kind()]
    assert publisher.send(FakeLink(), [messages], NOW) == set()
    assert messages == []


@pytest.mark.parametrize(("kind", "left"), [(reply, 0), (direct_reply, 0), (notice, 0), (dead_letter, 1)])
def test_returned_message_is_dropped_unless_it_is_a_dead_letter(
    publisher: Publisher, kind: Kind, left: int
) -> None:
    link, message = FakeLink(), kind()
    link.unroutable = {message.routing_key}
    messages = [message]
    assert publisher.send(link, [messages], NOW) == ({message.routing_key} if left else set())
    assert messages == [message] * left


def test_refused_reply_goes_to_the_default_queue(publisher: Publisher) -> None:
    link, messages = FakeLink(), list[OutgoingResponse]([reply()])
    link.refusing = {"billing.replies.app"}
    assert publisher.send(link, [messages], NOW) == set()
    assert [(type(sent), sent.routing_key) for sent in link.published] == [(OutgoingReply, DEFAULT)]


def test_reply_that_the_default_queue_refuses_is_left(publisher: Publisher) -> None:
    link, messages = FakeLink(), list[OutgoingResponse]([reply()])
    link.refusing = {"billing.replies.app", DEFAULT}
    assert publisher.send(link, [messages], NOW) == {DEFAULT}
    assert [message.routing_key for message in messages] == [DEFAULT]


def test_reply_to_the_dead_letter_queue_is_a_reply(publisher: Publisher, metrics: Metrics) -> None:
    messages = list[OutgoingResponse]([reply(DEAD)])
    assert publisher.send(FakeLink(), [messages], NOW) == set()
    assert not any(sample.value for metric in metrics.dead_letters.collect() for sample in metric.samples)


def test_refused_direct_reply_is_dropped(publisher: Publisher) -> None:
    link, messages = FakeLink(), list[OutgoingResponse]([direct_reply()])
    link.refusing = {DIRECT}
    assert publisher.send(link, [messages], NOW) == set()
    assert messages == link.published == []


def test_direct_replies_are_published_apart(publisher: Publisher) -> None:
    link, published = FakeLink(), list[int]()
    link.on_publish = lambda: published.append(len(link.published))
    publisher.send(link, [[direct_reply(), reply()], [direct_reply()]], NOW)
    assert published == [0, 1]
    assert [type(sent) for sent in link.published] == [
        OutgoingReply,
        OutgoingDirectReply,
        OutgoingDirectReply,
    ]


def test_refused_notice_becomes_a_dead_letter_without_a_look_at_its_body(
    publisher: Publisher, metrics: Metrics
) -> None:
    link, messages = FakeLink(), list[OutgoingResponse]([notice()])
    link.refusing = {NOTICE.type}
    assert publisher.send(link, [messages], NOW) == set()
    (dead,) = link.dead_letters
    assert (dead.body, dead.reason) == (b"no JSON", DeadLetterReason.NOTICE_REFUSED)
    assert dead.headers["x-billing-reference-id"] == "r"
    labels = {"reason": "notice_refused"}
    assert metrics.registry.get_sample_value("billing_worker_dead_lettered_total", labels) == 1


def test_notices_go_after_all_else(publisher: Publisher) -> None:
    link = FakeLink()
    publisher.send(link, [[notice(), reply()], [dead_letter()]], NOW)
    kinds = [type(sent) for sent in link.published]
    assert kinds == [OutgoingReply, OutgoingDeadLetter, OutgoingNotice]


def test_dead_letter_without_a_queue_holds_the_notices(publisher: Publisher) -> None:
    link = FakeLink()
    link.unroutable = {DEAD}
    assert publisher.send(link, [[notice()], [dead_letter()]], NOW) == {DEAD}
    assert link.notices == []


def test_lost_link_keeps_every_message(publisher: Publisher) -> None:
    link, messages = FakeLink(), list[OutgoingResponse]([reply(), notice(), dead_letter()])
    link.closing = {DEAD}
    with pytest.raises(BrokerUnavailableError):
        publisher.send(link, [messages], NOW)
    assert len(messages) == 3
