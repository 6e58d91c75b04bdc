"""Tables of the section "Gateways" of the contract: each command in them is one, with a good reference."""

import json
import re
from datetime import UTC, datetime

import pytest

from schemas import Limits, Malformed, decode
from tests.gateways.replay import GATEWAYS, replay_cases
from tests.support.pages import code_spans, page, section, tables

PAGE = page("schemas/README.md")
NOW = datetime(2026, 11, 23, tzinfo=UTC)
SECTIONS = {
    "Stripe": "stripe",
    "Paddle Billing": "paddle",
    "Adyen": "adyen",
    "PayPal": "paypal",
    "Lemon Squeezy": "lemonsqueezy",
}
ROWS = [(title, event, said) for title in SECTIONS for event, said in tables(section(PAGE, title))[0]]
COMMANDS = [
    (title, code) for title, _, said in ROWS for code in code_spans(said) if code.startswith('{"type"')
]
_REFERENCE = re.compile(r"[a-z]+:[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)*(?::\d{10})?")


@pytest.mark.parametrize(
    ("title", "event", "said"), ROWS, ids=[f"{title}: {event}" for title, event, _ in ROWS]
)
def test_row_has_a_command_or_the_reason_for_none(title: str, event: str, said: str) -> None:
    assert event
    assert said.startswith('`{"type": "') or re.match("none: .+", said), title


@pytest.mark.parametrize(("title", "command"), COMMANDS)
def test_command_of_a_table_decodes(title: str, command: str) -> None:
    decoded = decode(command.encode(), now=NOW, limits=Limits())
    assert not isinstance(decoded, Malformed), decoded
    sent = json.loads(command)
    assert decoded.type == sent["type"]
    for name, value in sent.items():
        if name.endswith("eferenceId") or name == "disputeId":
            assert _REFERENCE.fullmatch(value), name
            assert value.startswith(f"{SECTIONS[title]}:"), name


def test_reference_is_used_once_by_each_gateway() -> None:
    """But for one payment that several objects tell, and a dispute of several results."""
    references = [(title, json.loads(command)["referenceId"]) for title, command in COMMANDS]
    twice = {reference for reference in references if references.count(reference) > 1}
    assert twice == {("Adyen", "adyen:PSP1")}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_table_has_the_types_of_command_that_the_mapper_gives(gateway: str) -> None:
    (title,) = [title for title, name in SECTIONS.items() if name == gateway]
    listed = {json.loads(command)["type"] for name, command in COMMANDS if name == title}
    given = {command["type"] for case in replay_cases(gateway) for command in case.commands}
    assert given - {"subscription.renew"} == listed
