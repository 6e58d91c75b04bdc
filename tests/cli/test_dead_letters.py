"""``dead-letters``: an operator finds, mends and replays messages that could not be applied."""

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.console import Cli, Ended, FilledLedger
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.worker_thread import running
from worker import __version__
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.deadletters.link_drainer import LinkDrainer
from worker.errors import NotKeptError
from worker.ledger.store import Ledger
from worker.settings import load_settings

BONUS = {"type": "credit.bonus", "referenceId": "bonus-1", "userId": "ann", "tokens": 2_000}


@pytest.fixture(autouse=True)
def ann(ledger: FilledLedger) -> None:
    """Account of ann, to which mended commands are applied."""
    ledger.open("ann")


def worker(
    cli: Cli,
    count: int = 1,
    *,
    most: int = 1_000,
    senders: Mapping[str, Sequence[str]] | None = None,
    drains: bool = True,
) -> None:
    """Process the next ``count`` messages with the largest quantity ``most``, then drain dead letters."""
    environment = cli.environment
    application = Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"],
            database_url=environment["BILLING_DATABASE_URL"],
            max_quantity=most,
            senders=senders,
        )
    )
    pipeline = application.pipeline(Ledger(application.engine))
    link = application.link(consume=[queue.name for queue in BILLING.work])
    try:
        while count:
            deliveries = link.receive(count, PATIENCE_S)
            assert deliveries, f"{count} messages have not come"
            items = pipeline.receive(deliveries)
            pipeline.apply(items)
            pipeline.reply_and_acknowledge(link, items)
            count -= len(deliveries)
    finally:
        link.close()
        application.engine.dispose()
    assert not drains or cli("dead-letters", "drain").code == 0


@contextmanager
def working(
    cli: Cli, *, most: int = 5_000, senders: Mapping[str, Sequence[str]] | None = None
) -> Iterator[None]:
    """Run a worker with the largest quantity ``most`` beside the command."""
    application = Application(
        load_settings(
            broker_url=cli.environment["BILLING_BROKER_URL"],
            database_url=cli.environment["BILLING_DATABASE_URL"],
            max_quantity=most,
            senders=senders,
        )
    )
    with running(application):
        yield
    application.engine.dispose()


def replayed(cli: Cli, *arguments: str, **worker_settings: Any) -> Ended:
    """Run a replay beside a worker."""
    with working(cli, **worker_settings):
        return cli("dead-letters", "replay", *arguments, "--reason", "mended")


def dead_letters(cli: Cli, *options: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = cli("dead-letters", "list", "--json", *options).json["deadLetters"]
    return listed


def the_dead_letter(cli: Cli, *options: str) -> dict[str, Any]:
    (dead_letter,) = dead_letters(cli, *options)
    return dead_letter


# -- seeing -----------------------------------------------------------------------------------------------


def test_listing_without_dead_letters_is_empty(cli: Cli) -> None:
    ended = cli("dead-letters", "list")
    assert (ended.code, ended.out.split("\t")[0]) == (0, "number")
    assert len(ended.lines) == 1
    assert cli("dead-letters", "list", "--json").json == {
        "total": 0,
        "deadLetters": [],
        "next": None,
        "searchedTo": None,
    }


def test_dead_letter_is_listed_with_what_an_operator_needs(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    names, values = (line.split("\t") for line in cli("dead-letters", "list").lines)
    shown = dict(zip(names, values, strict=True))
    assert shown.pop("last failed")
    assert shown == {
        "number": "1",
        "status": "parked",
        "code": "invalid_field",
        "message": "tokens: at most 1000 is taken.",
        "reference": "bonus-1",
        "user": "ann",
        "tokens": "2000",
        "tries": "1",
    }
    on_terminal = cli("dead-letters", "list", terminal=True)
    assert "Dead letters: 1 of 1" in on_terminal.out
    assert "bonus-1" in on_terminal.out


def test_dead_letters_are_listed_newest_first_by_page_code_and_status(cli: Cli, rabbit: RabbitClient) -> None:
    for body in (b"one", b"[2]", b"three"):
        rabbit.publish(body, routing_key="usage.deduct")
    worker(cli, 3)
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [3, 2, 1]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--limit", "1", "--cursor", "3")] == [
        2
    ]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--code", "not_json")] == [3, 1]
    cli("dead-letters", "discard", "1", "--reason", "a try")
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [3, 2]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--status", "discarded")] == [1]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--status", "all")] == [3, 2, 1]


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


# -- replay -----------------------------------------------------------------------------------------------


def test_replayed_dead_letter_is_applied_once_its_cause_is_mended(cli: Cli, rabbit: RabbitClient) -> None:
    correlation_id = rabbit.publish(BONUS)
    worker(cli)
    assert rabbit.replies({correlation_id})[correlation_id][0]["status"] == "failed"
    assert the_dead_letter(cli)["reason"] == "invalid_field"

    ended = replayed(cli, "1")
    assert (ended.code, ended.out) == (0, "replay 1 is finished: 1 applied\n")

    (reply,) = rabbit.replies({correlation_id})[correlation_id]
    assert (reply["status"], reply["balanceAfter"]) == ("applied", 12_000)
    assert dead_letters(cli) == []
    assert the_dead_letter(cli, "--status", "resolved")["number"] == 1
    details = cli("dead-letters", "show", "1", "--json").json
    assert [event["kind"] for event in details["events"]] == ["failed", "replayed", "resolved"]
    assert [(line["status"], line["agrees"]) for line in details["ledger"]] == [("applied", True)]


def test_replay_of_a_command_applied_since_is_a_duplicate_and_moves_nothing(
    cli: Cli, rabbit: RabbitClient
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "list")
    rabbit.publish(BONUS)  # the producer sent it again, after the limit was raised
    worker(cli, most=5_000)
    ended = replayed(cli, "1")
    assert (ended.code, ended.out) == (0, "replay 1 is finished: 1 duplicate\n")
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_dead_letter_that_fails_again_is_the_same_with_one_more_try(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    first = the_dead_letter(cli)
    ended = replayed(cli, "1", most=1_500)
    assert (ended.code, ended.out) == (1, "replay 1 is finished: 1 failed again\n")
    again = the_dead_letter(cli)
    assert (again["number"], again["attempts"]) == (first["number"], first["attempts"] + 1)
    assert again["message"] == "tokens: at most 1500 is taken."
    assert again["firstFailedAt"] == first["firstFailedAt"]
    assert again["lastFailedAt"] > first["lastFailedAt"]
    shown = cli("dead-letters", "replay", "show", "1")
    assert "1\tfailed_again\tinvalid_field: tokens: at most 1500 is taken." in shown.lines


def test_discarded_dead_letter_waits_again_when_its_message_fails_again(
    cli: Cli, rabbit: RabbitClient
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "discard", "1", "--reason", "never mind")
    rabbit.publish(BONUS)
    worker(cli)
    assert the_dead_letter(cli)["attempts"] == 2


def test_message_of_a_forbidden_sender_is_replayed_by_an_operator_with_the_right(
    cli: Cli, rabbit: RabbitClient, broker_url: str
) -> None:
    operator = broker_url.partition("://")[2].partition(":")[0]
    rabbit.publish(BONUS, user_id=operator)
    worker(cli, most=5_000, senders={"credit.*": ["gateway"]})
    assert the_dead_letter(cli)["reason"] == "wrong_sender"

    assert replayed(cli, "1", senders={"credit.*": ["gateway"]}).code == 1
    assert the_dead_letter(cli)["attempts"] == 2, "a replay is no way around the rule"

    assert replayed(cli, "1", senders={"credit.*": ["gateway", operator]}).code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_one_call_replays_several_dead_letters_once_each(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(3):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}"})
    worker(cli, 3)
    assert replayed(cli, "3", "1", "2", "1").out == "replay 1 is finished: 3 applied\n"
    assert cli("balance", "ann", "--json").json["balance"] == 16_000


def test_one_unknown_number_stops_the_whole_replay_or_discard(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "replay", "1", "9", "--reason", "none").code == 4
    assert cli("dead-letters", "discard", "1", "9", "--reason", "none").code == 4
    assert the_dead_letter(cli)["status"] == "parked"
    assert rabbit.depth("billing.payments") == 0


def test_dead_letter_that_reaches_no_queue_stays_parked(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    rabbit.channel.queue_unbind("billing.payments", "billing", "credit.*")
    ended = cli("dead-letters", "replay", "1", "--reason", "none")
    assert (ended.code, ended.out) == (1, "replay 1 is finished: 1 unroutable\n")
    assert the_dead_letter(cli)["status"] == "parked"
    shown = cli("dead-letters", "replay", "show", "1")
    assert "1\tunroutable\treached no queue: billing has no route for 'credit.bonus'" in shown.lines


def test_replay_without_a_worker_is_paused_and_can_be_resumed(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "replay", "1", "--reason", "none", "--patience", "0.2")
    assert (ended.code, ended.out) == (1, "replay 1 is paused: 1 sent\n")
    assert "no outcome of 1 dead letter within 0 s; is a worker running?" in ended.err
    assert "dead-letters replay resume 1" in ended.err
    assert the_dead_letter(cli)["status"] == "replaying"
    with working(cli):
        resumed = cli("dead-letters", "replay", "resume", "1")
    assert (resumed.code, resumed.out) == (0, "replay 1 is finished: 1 applied\n")


def test_dry_run_shows_the_results_of_a_replay_and_sends_nothing(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    rabbit.publish(b"oops", routing_key="usage.deduct")
    worker(cli, 2)
    ended = cli("dead-letters", "replay", "1", "2", "--dry-run", "--json")
    assert ended.code == 1
    forecasts = {forecast["would"]: forecast for forecast in ended.json["forecasts"]}
    assert (
        forecasts["apply"]["deadLetters"],
        forecasts["apply"]["tokens"],
        forecasts["apply"]["sample"],
    ) == (1, 2_000, 1)
    assert (forecasts["malformed"]["code"], forecasts["malformed"]["sample"]) == ("not_json", 2)
    assert cli("dead-letters", "replay", "1", "--dry-run").code == 0
    assert rabbit.depth("billing.payments") == rabbit.depth("billing.usage") == 0
    assert cli("balance", "ann", "--json").json["balance"] == 10_000
    assert cli("dead-letters", "replay", "list", "--json").json["replays"] == []


def test_replay_in_steps_stops_by_itself_when_one_fails(cli: Cli, rabbit: RabbitClient) -> None:
    for number, tokens in enumerate((2_000, 2_000, 9_000, 2_000)):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}", "tokens": tokens})
    worker(cli, 4)
    (group,) = cli("dead-letters", "groups", "--json").json["groups"]
    digits = group["fingerprint"][:6]
    ended = replayed(cli, "--group", digits, "--yes", "--canary", "1,1,1", "--rate", "100/s")
    assert ended.code == 1
    assert ended.out == "replay 1 is stopped: 1 waiting, 2 applied, 1 failed again\n"
    assert "step 3 of 4: 1 failed again." in ended.err
    with working(cli):
        resumed = cli("dead-letters", "replay", "resume", "1")
    assert resumed.out == "replay 1 is finished: 3 applied, 1 failed again\n"


def test_replays_are_listed_shown_and_cancelled(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}"})
    worker(cli, 2)
    cli(
        "dead-letters",
        "replay",
        "1",
        "2",
        "--canary",
        "1",
        "--reason",
        "a try",
        "--patience",
        "0",
        "--actor",
        "eva",
    )
    (listed,) = cli("dead-letters", "replay", "list", "--json").json["replays"]
    assert (listed["state"], listed["actor"], listed["reason"], listed["steps"]) == (
        "paused",
        "eva",
        "a try",
        [1],
    )
    names, values = (line.split("\t") for line in cli("dead-letters", "replay", "list").lines)
    assert dict(zip(names, values, strict=True))["results"] == "1 waiting, 1 sent"
    fields = dict(line.split("\t") for line in cli("dead-letters", "replay", "show", "1").lines)
    assert (fields["state"], fields["step"], fields["dead letters"]) == ("paused", "1 of 2", "2")
    assert cli("dead-letters", "replay", "pause", "1").code == 1
    cancelled = cli("dead-letters", "replay", "cancel", "1", "--reason", "a slip")
    assert cancelled.out == "replay 1 is cancelled: 1 sent, 1 skipped\n"
    assert cli("dead-letters", "replay", "resume", "1").code == 1
    worker(cli, most=5_000)
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [2], (
        "the drain sees that 1 was applied"
    )
    assert cli("dead-letters", "replay", "show", "9").code == 4


def test_verify_proves_the_groups(cli: Cli, rabbit: RabbitClient, ledger: FilledLedger) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "groups", "--verify")
    assert (ended.code, ended.out) == (0, "the groups are what their dead letters add up to\n")
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dead_letter_groups SET parked = 3, waiting = 3")
    ended = cli("dead-letters", "groups", "--verify")
    assert ended.code == 1
    assert ended.out.endswith(": parked is 3, and must be 1\n")


def test_replay_asks_before_it_takes_all_dead_letters_of_a_filter(cli: Cli) -> None:
    ended = cli("dead-letters", "replay", "--code", "not_json", "--reason", "none")
    assert ended.code == 2
    assert "add --yes" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "7"), "Missing option '--reason'"),
        (("replay", "--reason", "x"), "give the numbers of dead letters, or a filter"),
        (("replay", "7", "--code", "x", "--reason", "x"), "either numbers or filters"),
        (("replay", "7", "--reason", "x", "--rate", "fast"), "must be like 50/s"),
        (("replay", "7", "--reason", "x", "--canary", "0"), "numbers of dead letters from 1"),
        (("list", "--since", "last week"), "is no time; write 15m, 2h or 3d (ago)"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_done(
    cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    ended = cli("dead-letters", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_help_of_replay_shows_its_options_and_its_commands(bare_cli: Cli) -> None:
    ended = bare_cli("dead-letters", "replay", "--help")
    assert ended.code == 0
    for piece in ("--canary", "--dry-run", "--rate", "resume", "cancel", "fixed"):
        assert piece in ended.out


# -- editing ----------------------------------------------------------------------------------------------


def editor(tmp_path: Path, *replacements: tuple[str, str]) -> str:
    """Install an editor that replaces pieces of text."""
    script = tmp_path / "editor"
    edits = "".join(f"s = s.replace({old!r}, {new!r})\n" for old, new in replacements)
    script.write_text(
        "#!/usr/bin/env python3\nimport sys\ns = open(sys.argv[1]).read()\n"
        f"{edits}open(sys.argv[1], 'w').write(s)\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_body_is_mended_in_an_editor_and_then_replayed(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path
) -> None:
    rabbit.publish({**BONUS, "tokenz": 5, "tokens": 500})
    worker(cli)
    mending = editor(tmp_path, (',\n  "tokenz": 5', ""))
    ended = cli("dead-letters", "edit", "1", "--reason", "a typo", "--actor", "eva", EDITOR=mending)
    assert (ended.code, ended.out) == (
        0,
        "dead letter 1 is edited; send it with `billing-worker dead-letters replay 1`\n",
    )
    details = cli("dead-letters", "show", "1", "--json").json
    assert json.loads(details["editedBody"]) == {**BONUS, "tokens": 500}
    assert json.loads(details["body"])["tokenz"] == 5, "the original is kept"
    (edit,) = details["edits"]
    assert (edit["actor"], edit["reason"], edit["before"]) == ("eva", "a typo", details["body"])
    assert replayed(cli, "1").code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 10_500


def test_body_that_a_worker_would_refuse_is_not_saved(cli: Cli, rabbit: RabbitClient, tmp_path: Path) -> None:
    rabbit.publish({**BONUS, "tokenz": 5})
    worker(cli)
    wrong = editor(tmp_path, ('"tokenz": 5', '"token": 5'))
    ended = cli("dead-letters", "edit", "1", "--reason", "a typo", EDITOR=wrong)
    assert ended.code == 1
    assert "at token (unknown_field): The field 'token' is not known; did you mean 'tokens'?" in ended.err
    assert "editedBody" not in cli("dead-letters", "show", "1", "--json").json
    unchecked = cli("dead-letters", "edit", "1", "--reason", "a try", "--unchecked", EDITOR=wrong)
    assert unchecked.code == 0


def test_editor_that_changes_nothing_edits_nothing(cli: Cli, rabbit: RabbitClient, tmp_path: Path) -> None:
    rabbit.publish({**BONUS, "tokenz": 5})
    worker(cli)
    ended = cli("dead-letters", "edit", "1", "--reason", "a look", EDITOR=editor(tmp_path))
    assert (ended.code, ended.err) == (1, "nothing was changed\n")


def test_bytes_that_no_editor_keeps_are_mended_from_a_file(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path
) -> None:
    rabbit.publish(b"\xff\x00", routing_key="credit.bonus")
    worker(cli)
    refused = cli("dead-letters", "edit", "1", "--reason", "bytes", EDITOR=editor(tmp_path))
    assert refused.code == 1
    assert "--from-file" in refused.error
    mended = json.dumps({**BONUS, "tokens": 5}).encode()
    ended = cli("dead-letters", "edit", "1", "--reason", "bytes", "--from-file", "-", stdin=mended)
    assert ended.code == 0
    assert cli("dead-letters", "show", "1", "--json").json["editedBody"].encode() == mended


def test_note_is_shown_with_the_dead_letter(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "note", "1", "asked the team", "--as", "eva").code == 0
    details = cli("dead-letters", "show", "1", "--json").json
    assert details["note"] == "asked the team"
    assert (details["events"][-1]["kind"], details["events"][-1]["actor"]) == ("noted", "eva")


# -- discarding -------------------------------------------------------------------------------------------


def test_discarded_dead_letter_keeps_the_reason(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "discard", "1", "--reason", "a try of Ann's, see T-17")
    assert (ended.code, ended.out) == (0, "discarded 1\n")
    shown = cli("dead-letters", "show", "1", "--json").json
    assert (shown["status"], shown["note"]) == ("discarded", "a try of Ann's, see T-17")
    assert "note\ta try of Ann's, see T-17" in cli("dead-letters", "show", "1").lines
    assert cli("dead-letters", "discard", "1", "--reason", "again").code == 1


def test_restored_dead_letter_waits_again(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "discard", "--code", "invalid_field", "--yes", "--reason", "a slip")
    assert dead_letters(cli) == []
    assert cli("dead-letters", "restore", "1").out == "restored 1\n"
    assert the_dead_letter(cli)["status"] == "parked"


# -- export and import ------------------------------------------------------------------------------------


def test_export_and_import_keep_every_byte(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path, sqlite_template: Path
) -> None:
    rabbit.publish(BONUS, message_id="m-1", headers={"x-trace": "t-1"})
    rabbit.publish(bytes(range(256)), routing_key="usage.deduct")
    worker(cli, 2)
    exported = cli("dead-letters", "export")
    assert len(exported.lines) == 2
    again = cli("dead-letters", "import", "-", stdin=exported.out.encode())
    assert again.out == "added 0, known already 2\n"
    elsewhere = tmp_path / "elsewhere.sqlite3"
    elsewhere.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{elsewhere}"
    added = cli("dead-letters", "import", "-", stdin=exported.out.encode(), BILLING_DATABASE_URL=url)
    assert added.out == "added 2, known already 0\n"
    there = cli("dead-letters", "export", BILLING_DATABASE_URL=url)
    assert there.lines == exported.lines


def test_export_of_an_unknown_dead_letter_empties_no_file(cli: Cli, tmp_path: Path) -> None:
    before = tmp_path / "7.jsonl"
    before.write_text("a letter")
    assert cli("dead-letters", "export", "7", "--output", str(before)).code == 4
    assert before.read_text() == "a letter"


def test_drain_ends_with_1_where_a_dead_letter_cannot_be_stored(
    cli: Cli, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    rabbit.publish({**BONUS, "referenceId": "bonus-2"}, exchange="", routing_key="billing.dead")

    def drain_all(*_: object, **__: object) -> int:
        raise NotKeptError("1 dead letters can't be kept")

    monkeypatch.setattr(LinkDrainer, "drain_all", drain_all)
    ended = cli("dead-letters", "drain")
    assert (ended.code, ended.error) == (1, "1 dead letters can't be kept")
    assert ended.out.startswith("drained unknown, ended 0 of replays")


def test_import_names_a_line_that_is_no_dead_letter(cli: Cli) -> None:
    ended = cli("dead-letters", "import", "-", stdin=b'\n{"format": "x"}\n')
    assert ended.code == 1
    assert ended.error.startswith("line 2: number: Field required")


def test_drain_counts_what_it_drained_and_what_waits(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish(b"oops", exchange="", routing_key="billing.dead", message_id=f"m-{number}")
    first = cli("dead-letters", "drain")
    assert first.out == "drained 2, ended 0 of replays that nobody runs; 2 dead letters wait, in 1 group\n"
    again = cli("dead-letters", "park", "--json").json
    assert (again["drained"], again["ended"], again["parked"], again["groups"]) == (0, 0, 2, 1)


AWAY = "amqp://guest:guest@127.0.0.1:1/"


@pytest.mark.parametrize(
    "command",
    [
        ("note", "1", "asked the team"),
        ("list",),
        ("groups",),
        ("show", "1"),
        ("edit", "1", "--reason", "x", "--from-file", "-", "--unchecked"),
        ("discard", "1", "--reason", "x"),
        ("export", "1"),
        ("replay", "1", "--dry-run"),
        ("replay", "list"),
    ],
    ids=" ".join,
)
def test_stored_dead_letters_need_no_broker(cli: Cli, rabbit: RabbitClient, command: tuple[str, ...]) -> None:
    rabbit.publish(b"oops", exchange="", routing_key="billing.dead")
    cli("dead-letters", "drain")
    ended = cli("dead-letters", *command, stdin=b"{}", BILLING_BROKER_URL=AWAY)
    assert (ended.code, ended.err) == (0, "")


def test_drain_needs_the_broker(ledger_cli: Cli) -> None:
    assert ledger_cli("dead-letters", "drain", BILLING_BROKER_URL=AWAY).code == 3


def test_empty_listing_names_the_drainer(ledger_cli: Cli) -> None:
    for command in ("list", "groups"):
        ended = ledger_cli("dead-letters", command, BILLING_BROKER_URL=AWAY)
        assert (ended.code, ended.err.count("`billing-worker dead-letters drain`")) == (0, 1)


# -- groups -----------------------------------------------------------------------------------------------


def test_like_failures_are_one_group(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(3):
        rabbit.publish(
            {**BONUS, "userId": f"u{number}", "referenceId": f"r{number}", "tokens": 2_000 + number}
        )
    rabbit.publish(b"oops", routing_key="usage.deduct")
    worker(cli, 4)
    ended = cli("dead-letters", "groups", "--order", "count", "--json")
    first, second = ended.json["groups"]
    assert (first["reason"], first["type"], first["waiting"], first["users"]) == (
        "invalid_field",
        "credit.bonus",
        3,
        3,
    )
    assert (first["tokensAtStake"], first["tokensUnknown"]) == (6_003, 0)
    assert (second["reason"], second["waiting"], second["tokensUnknown"]) == ("not_json", 1, 1)
    names, *values = (line.split("\t") for line in cli("dead-letters", "groups").lines)
    assert {dict(zip(names, row, strict=True))["tokens affected"] for row in values} == {"6003", "unknown"}


# -- many -------------------------------------------------------------------------------------------------


def test_drain_takes_more_dead_letters_than_one_delivery_holds(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(450):
        rabbit.publish(f"broken {number}".encode(), routing_key="usage.deduct", user_id="billing")
    worker(cli, 450, drains=False)
    eventually(lambda: rabbit.depth("billing.dead") == 450)
    assert cli("dead-letters", "drain", "--json").json["drained"] == 450
    assert cli("dead-letters", "list", "--limit", "1", "--json").json["total"] == 450
