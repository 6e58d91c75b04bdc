"""``dead-letters show``: a dead letter whole, its body as text or bytes."""

import json

import pytest

from tests.cli.console import Cli, Ended
from tests.cli.dead_letters.parts import BONUS, worker
from tests.support.rabbit_client import RabbitClient
from worker import __version__


def test_dead_letter_is_shown_whole(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS, message_id="m-1", correlation_id="c-1", headers={"x-trace": "t-1"})
    worker(cli)
    shown = cli("dead-letters", "show", "1")
    assert shown.code == 0
    fields = dict(line.split("\t") for line in shown.lines if line.count("\t") == 1)
    assert fields["code"] == "invalid_field"
    assert fields["queue"] == "billing.payments"
    assert (fields["exchange"], fields["routing key"]) == ("billing", "credit.bonus")
    assert (fields["type"], fields["reference id"], fields["user id"]) == ("credit.bonus", "bonus-1", "ann")
    for piece in ('"message_id": "m-1"', '"correlation_id": "c-1"', '"x-trace": "t-1"'):
        assert piece in shown.out
    body = body_shown(shown)
    assert json.loads(body) == BONUS
    assert '\n  "tokens": 2000\n' in body, "it is pretty"
    (event,) = [line.split("\t") for line in shown.lines if line.count("\t") == 4 and "failed" in line]
    assert event[1:] == ["failed", f"worker {__version__}", "", "tokens: at most 1000 is taken."]
    assert "bonus-1\tnothing\t\t\t" in shown.lines, "what the ledger has under its reference"


def test_dead_letter_is_json_for_scripts(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS, message_id="m-1")
    worker(cli)
    shown = cli("dead-letters", "show", "1", "--json").json
    assert json.loads(shown["body"]) == BONUS
    assert shown["properties"]["properties"]["message_id"] == "m-1"
    assert shown["firstFailedAt"] == shown["lastFailedAt"]


def body_shown(ended: Ended) -> str:
    before, _, _ = ended.out.partition("\nwhen\tevent")
    return before.partition("\nbody, ")[2].partition("\n")[2].rstrip("\n")


BODIES: list[tuple[bytes, str]] = [
    (b"plain text", "plain text"),
    (b"\xff\xfe\x00\x01", "fffe 0001"),
    (b"", ""),
    (b"tab\there", "7461 6209 6865 7265"),
    (b'{"tokens": 5,\n "userId": "ann",\n}', '{"tokens": 5,\n "userId": "ann",\n}'),
    (
        b"\0" * 5_000,
        " ".join(["0000"] * 2_048) + "\n… and 904 bytes more, see `billing-worker dead-letters export`",
    ),
    (b"\x1b[2J", "1b5b 324a"),
    ('{"ü": "\u009b2J"}'.encode(), '{\n  "ü": "\\u009b2J"\n}'),
    (b'{"a": "\\ud800"}', '{\n  "a": "\\ud800"\n}'),
    # Text that pretty printing would hide is shown as it is: it may be why the message failed.
    (b'{"tokens": 1, "tokens": 2}', '{"tokens": 1, "tokens": 2}'),
    (b'{"tokens": 1.50}', '{"tokens": 1.50}'),
    (b'{"tokens": 1e2}', '{"tokens": 1e2}'),
    (b'{"tokens": 1.5}', '{\n  "tokens": 1.5\n}'),
    (b'{"tokens": ' + b"9" * 5_000 + b"}", '{"tokens": ' + "9" * 5_000 + "}"),
    (b"[" * 2_000, "[" * 2_000),
]


def test_body_is_readable_where_it_can_be_and_hexadecimal_where_not(cli: Cli, rabbit: RabbitClient) -> None:
    for body, _ in BODIES:
        rabbit.publish(body, routing_key="usage.deduct")
    worker(cli, len(BODIES))
    for number, (body, shown) in enumerate(BODIES, 1):
        ended = cli("dead-letters", "show", str(number))
        assert ended.code == 0
        assert f"\nbody, {len(body)} bytes\n" in ended.out
        assert body_shown(ended) == shown


def test_bytes_that_are_no_text_are_hexadecimal_in_json(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(bytes(range(256)), routing_key="usage.deduct")
    worker(cli)
    shown = cli("dead-letters", "show", "1", "--json").json
    assert bytes.fromhex(shown["bodyHex"]) == bytes(range(256))
    assert "body" not in shown


def test_showing_a_dead_letter_changes_nothing(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    before = cli("dead-letters", "list", "--json").out
    for _ in range(2):
        cli("dead-letters", "show", "1")
    assert cli("dead-letters", "list", "--json").out == before
    assert rabbit.depth("billing.dead") == 0


@pytest.mark.parametrize(
    "command",
    [
        ("show", "7"),
        ("replay", "7", "--reason", "none"),
        ("replay", "7", "--dry-run"),
        ("discard", "7", "--reason", "none"),
        ("restore", "7"),
        ("note", "7", "none"),
        ("edit", "7", "--reason", "none"),
        ("export", "7"),
    ],
    ids=" ".join,
)
def test_dead_letter_that_does_not_exist_exits_with_4(cli: Cli, command: tuple[str, ...]) -> None:
    ended = cli("dead-letters", *command)
    assert ended.code == 4
    assert ended.error == "there is no dead letter 7; see `billing-worker dead-letters list`"
