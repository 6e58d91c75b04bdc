"""A queue that the broker doesn't find: missing, or on a node of the broker that is away."""

import pytest
from amqp.exceptions import NotFound

from worker.broker.rabbitmq.connection import broker_errors, way_out_of
from worker.errors import BrokerUnavailableError

#: As RabbitMQ 3.10 writes them.
LOST = "NOT_FOUND - home node 'rabbit@mq1' of durable queue 'q' in vhost '/' is down or inaccessible"
MISSING = "NOT_FOUND - no queue 'q' in vhost '/'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(LOST, "start that node of the broker"), (MISSING, "run `billing-worker topology declare`")],
)
def test_queue_that_is_not_found_has_its_own_way_out(text: str, expected: str) -> None:
    error = NotFound(text)
    assert way_out_of(error) == expected
    with pytest.raises(BrokerUnavailableError) as raised, broker_errors():
        raise error
    assert str(raised.value).endswith(f": {expected}")
