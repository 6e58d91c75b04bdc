"""Publisher of the bridge: links that are idle, lost or in use."""

import threading

import pytest

from schemas import FreezeAccount, PaymentFailed, routing_key
from tests.support.fakes import FakeLink
from worker.errors import BrokerUnavailableError
from worker.gateways.publishing import CommandPublisher

FAILED = PaymentFailed(reference_id="stripe:pi_1:failed", original_reference_id="stripe:pi_1")
FROZEN = FreezeAccount(
    reference_id="stripe:issfr_1:frozen", payment_reference_id="stripe:pi_1", reason="early_fraud_warning"
)


class Links:
    """Links that were opened, and a clock."""

    def __init__(self) -> None:
        self.opened: list[FakeLink] = []
        self.now = 0.0

    def publisher(self, turn_s: float = 5.0, partitions: int = 0) -> CommandPublisher:
        """Return a publisher over these links."""
        return CommandPublisher(
            self._open,
            sent_as="bridge",
            partitions=partitions,
            seconds=lambda: self.now,
            turn_s=turn_s,
        )

    def _open(self) -> FakeLink:
        self.opened.append(FakeLink())
        return self.opened[-1]


@pytest.fixture
def links() -> Links:
    """Links to a broker in memory."""
    return Links()


def lose(link: FakeLink) -> None:
    """Let the link fail at its next message."""
    link.closing.add("payment.failed")


def test_link_is_opened_with_the_first_command_and_kept(links: Links) -> None:
    publisher = links.publisher()
    assert links.opened == []
    publisher.publish([FAILED])
    publisher.publish([FAILED])
    (link,) = links.opened
    assert [message.routing_key for message in link.published] == ["payment.failed"] * 2


def test_command_goes_to_the_partition_of_its_user_where_it_names_one(links: Links) -> None:
    links.publisher(partitions=16).publish([FAILED, FAILED.model_copy(update={"user_id": "ann"})])
    (link,) = links.opened
    keys = [message.routing_key for message in link.published]
    assert keys == ["payment.failed", routing_key("payment.failed", "ann", 16)]


def test_link_that_was_idle_is_replaced(links: Links) -> None:
    publisher = links.publisher()
    publisher.publish([FAILED])
    links.now = 60.0
    publisher.publish([FAILED])
    first, second = links.opened
    assert first.closed
    assert len(second.published) == 1


def test_all_commands_of_an_event_are_published_again_on_a_new_link(links: Links) -> None:
    publisher = links.publisher()
    publisher.publish([FAILED])
    lose(links.opened[0])
    publisher.publish([FAILED, FAILED])
    assert len(links.opened[1].published) == 2


def test_new_link_that_fails_is_not_tried_again(links: Links) -> None:
    publisher = CommandPublisher(lambda: _broken(links), sent_as=None)
    with pytest.raises(BrokerUnavailableError):
        publisher.publish([FAILED])
    assert len(links.opened) == 1


def _broken(links: Links) -> FakeLink:
    links.opened.append(FakeLink())
    lose(links.opened[-1])
    return links.opened[-1]


def test_request_that_waits_too_long_for_its_turn_is_sent_again_later(links: Links) -> None:
    publisher = links.publisher(turn_s=0.05)
    publisher.publish([FAILED])
    began, end = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        end.wait(30)

    links.opened[0].on_publish = hang
    thread = threading.Thread(target=publisher.publish, args=([FAILED],))
    thread.start()
    assert began.wait(30)
    with pytest.raises(BrokerUnavailableError, match="earlier messages"):
        publisher.publish([FAILED])
    end.set()
    thread.join(30)
    assert len(links.opened[0].published) == 2


def test_closed_publisher_closes_its_link(links: Links) -> None:
    publisher = links.publisher()
    publisher.publish([FAILED])
    publisher.close()
    assert links.opened[0].closed


def test_event_is_sent_again_whole_where_one_of_its_commands_is_refused(links: Links) -> None:
    """A confirm for some commands is none for the event: all come again, under the same references."""
    publisher = links.publisher()
    publisher.publish([FAILED])
    links.opened[0].refusing.add("account.freeze")
    with pytest.raises(BrokerUnavailableError):
        publisher.publish([FAILED, FROZEN])
    links.opened[0].refusing.clear()
    publisher.publish([FAILED, FROZEN])
    sent = [message.body for message in links.opened[-1].published]
    assert sent[-2:] == [FAILED.to_json(), FROZEN.to_json()]
