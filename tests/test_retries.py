"""The message of a retry: the operator publishes it, and its first sender stays its sender."""

import pytest

from schemas import BonusCredit, routing_key
from worker.payment_retries import retry_of

COMMAND = BonusCredit(reference_id="b", user_id="ann", tokens=5, attempt=2)


@pytest.mark.parametrize(
    ("sender", "headers"),
    [("gateway", {"x-billing-sender": "gateway"}), (None, {})],
    ids=["known", "unknown"],
)
def test_retry_names_its_first_sender_and_the_queue_of_the_operator(
    sender: str | None, headers: dict[str, str]
) -> None:
    queue = "billing.replies.ops.1"
    message = retry_of(COMMAND, message_id="m", app_id="a", sent_as="ops", sender=sender, reply_to=queue)
    assert message.headers == headers
    assert (message.properties["user_id"], message.properties["reply_to"]) == ("ops", queue)
    assert (message.exchange, message.routing_key) == ("billing", "credit.bonus")


def test_retry_goes_to_the_partition_of_its_user() -> None:
    message = retry_of(COMMAND, message_id="m", app_id="a", sent_as="ops", sender=None, partitions=16)
    assert message.routing_key == routing_key("credit.bonus", "ann", 16)
