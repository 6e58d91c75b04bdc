"""The broker's answers to published messages."""

import pytest

from worker.broker import Outgoing, PublishResult
from worker.errors import BrokerUnavailableError

FIRST, SECOND, THIRD = (Outgoing(b"{}", "", f"queue-{number}") for number in range(3))


def test_message_that_is_neither_returned_nor_refused_is_accepted() -> None:
    assert PublishResult([FIRST, SECOND, THIRD], returned=[THIRD], refused=[FIRST]).accepted == [SECOND]
    assert PublishResult([FIRST, SECOND]).accepted == [FIRST, SECOND]


def test_refusal_names_the_queues() -> None:
    result = PublishResult([FIRST, SECOND, THIRD], refused=[THIRD, SECOND])
    with pytest.raises(BrokerUnavailableError, match="refused 2 messages for 'queue-1', 'queue-2'"):
        result.raise_if_refused()


def test_returned_message_is_no_refusal() -> None:
    PublishResult([FIRST], returned=[FIRST]).raise_if_refused()
