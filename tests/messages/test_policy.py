"""Rules about senders and reply addresses, as tables."""

import pytest

from schemas import MESSAGE_TYPES, QUERY_TYPES
from worker.messages.policy import Policy
from worker.messages.rights import unmatched

DIRECT = "amq.rabbitmq.reply-to.g1h2AA5y.HvZU"


@pytest.mark.parametrize(
    ("reply_to", "sender", "allowed"),
    [
        ("billing.replies", None, True),
        ("billing.replies", "app", True),
        (DIRECT, None, True),
        (DIRECT, "app", True),
        ("billing.replies.app", "app", True),
        ("billing.replies.app.", "app", True),
        ("billing.replies.app.web-1", "app", True),
        ("billing.replies.app", None, False),
        ("billing.replies.None", None, False),
        ("billing.replies.other", "app", False),
        ("billing.replies.app2", "app", False),
        ("billing.replies.ap", "app", False),
        ("billing.replies.App", "app", False),
        ("billing.replies.", "app", False),
        ("billing.repliesX", "app", False),
        ("billing.replies app", "app", False),
        ("billing.dead", "app", False),
        ("billing.payments", "app", False),
        ("app", "app", False),
        ("amq.rabbitmq.reply-to", "app", False),
        ("amq.rabbitmq.reply-toX", "app", False),
        ("amq.gen-x", "app", False),
        ("", "app", False),
    ],
)
def test_message_names_the_default_queue_direct_reply_to_or_a_queue_of_its_sender(
    reply_to: str, sender: str | None, *, allowed: bool
) -> None:
    assert Policy().allows_reply_to(reply_to, sender) is allowed


def test_private_queues_begin_with_the_reply_queue_of_the_settings() -> None:
    policy = Policy(reply_queue="answers")
    assert policy.allows_reply_to("answers.app", "app")
    assert not policy.allows_reply_to("billing.replies.app", "app")


def test_prefix_of_the_operator_is_open_to_everybody() -> None:
    policy = Policy(reply_to_prefixes=("shared.",))
    assert policy.allows_reply_to("shared.x", None)
    assert policy.allows_reply_to("shared.x", "app")
    assert not policy.allows_reply_to("share", "app")


@pytest.mark.parametrize(
    ("type_", "sender", "prefix"),
    [
        ("usage.deduct", "ocr", "ocr-"),
        ("usage.deduct", "app", ""),
        ("usage.deduct", "other", None),
        ("usage.deduct", None, None),
        ("usage.record", "ocr", None),
        ("usage.record", "meter", ""),
        ("payment.failed", None, None),
        ("query.balance", None, ""),
    ],
)
def test_longest_pattern_decides_the_prefix(type_: str, sender: str | None, prefix: str | None) -> None:
    policy = Policy(senders={"usage.*": {"ocr": "ocr-", "app": ""}, "usage.record": ["meter"]})
    assert policy.prefix_of_references(type_, sender) == prefix


@pytest.mark.parametrize(
    ("senders", "prefix"),
    [
        ({}, ""),
        ({"payment.*": ["bridge"]}, None),
        ({"account.*": ["ops"]}, None),
        ({"*": ["ops"]}, None),
        ({"account.import": ["ops"]}, ""),
        ({"account.import": {"ops": "import/"}, "account.*": ["app"]}, "import/"),
        ({"account.import": ["app"]}, None),
    ],
)
def test_import_is_allowed_by_a_rule_that_names_it_alone(
    senders: dict[str, list[str]], prefix: str | None
) -> None:
    assert Policy(senders=senders).prefix_of_references("account.import", "ops") == prefix


def test_other_types_of_accounts_follow_patterns() -> None:
    assert Policy(senders={"account.*": ["app"]}).prefix_of_references("account.open", "app") == ""


OPEN = {
    *("usage.batch", "usage.deduct", "usage.extend", "usage.free_upload", "usage.record", "usage.release"),
    *("usage.reserve", "usage.settle", "account.settle"),
    *("query.afford", "query.balance", "query.catalog", "query.history", "query.operation", "query.usage"),
}


@pytest.mark.parametrize("type_", [*MESSAGE_TYPES, *QUERY_TYPES])
def test_credit_and_reports_need_a_rule_once_there_is_one(type_: str) -> None:
    """Usage and questions about one account may come from anyone until a rule is about them."""
    for sender in ("app", None):
        assert Policy().prefix_of_references(type_, sender) == ""
        allowed = Policy(senders={"credit.refund": ["desk"]}).prefix_of_references(type_, sender)
        assert allowed == ("" if type_ in OPEN else None)


def test_worker_users_may_always_post_what_is_due() -> None:
    policy = Policy(senders={"account.*": ["ops"]}, worker_users=frozenset({"worker"}))
    assert policy.prefix_of_references("account.settle", "worker") == ""
    assert policy.prefix_of_references("account.settle", "app") is None
    assert policy.prefix_of_references("account.open", "worker") is None


@pytest.mark.parametrize(
    ("senders", "types"),
    [
        ({}, ["payment.succeeded", "credit.bonus"]),
        ({"usage.*": ["app"]}, []),
        ({"payment.*": ["gateway"]}, []),
    ],
)
def test_policy_says_which_credit_may_come_from_anyone(
    senders: dict[str, list[str]], types: list[str]
) -> None:
    assert Policy(senders=senders).credit_from_anyone == types


def test_pattern_of_no_type_is_named() -> None:
    senders = {"usage.*": ["app"], "payments.*": ["gateway"], "Usage.deduct": [], "query.stats": []}
    assert unmatched(senders) == ["payments.*", "Usage.deduct"]
