"""``reverse``: a dry run first, then refunds through a worker, and the results that the ledger shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from schemas import DeductUsage, RefundCredit
from tests.cli.console import Cli, Ended, FilledLedger
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.ledger.senders import Sender
from worker.settings import load_settings

WHY = ("--yes", "--reason", "wrong price", "--actor", "ann")


@pytest.fixture(autouse=True)
def charged(ledger: FilledLedger) -> None:
    """Accounts of ada and bob, charged four times for chat, once for ocr; one charge is refunded in part."""
    for user in ("ada", "bob"):
        ledger.open(user)
    ledger.apply(
        *(
            DeductUsage(reference_id=f"c-{n}", user_id=("ada", "bob")[n % 2], tokens=100, feature="chat")
            for n in range(4)
        ),
        sender=Sender("app", "web"),
    )
    ledger.apply(
        DeductUsage(reference_id="o-0", user_id="ada", tokens=7, feature="ocr"),
        RefundCredit(reference_id="r-0", user_id="ada", tokens=30, original_reference_id="c-0"),
    )


@contextmanager
def worker(cli: Cli, **more: Any) -> Iterator[None]:
    """A worker on the broker and the ledger of ``cli``."""
    environment = cli.environment
    application = Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"],
            database_url=environment["BILLING_DATABASE_URL"],
            readers=0,
            **more,
        )
    )
    with running(application):
        yield
    application.engine.dispose()


def balance(cli: Cli, user: str) -> int:
    return int(cli("balance", user, "--json").json["balance"])


def fields(ended: Ended) -> dict[str, str]:
    return {row[0]: row[1] for row in ended.rows if len(row) == 2}


# -- the dry run ------------------------------------------------------------------------------------------


def test_dry_run_shows_counts_and_sums_and_moves_nothing(ledger_cli: Cli) -> None:
    ended = ledger_cli("reverse", "--feature", "chat")
    assert ended.code == 0
    shown = fields(ended)
    assert shown["charges among them"] == "4"
    assert shown["can be reversed"] == "4"
    assert shown["of these the rest"] == "1"
    assert shown["tokens to go back"] == "370"
    assert ["bob", "2", "200"] in ended.rows
    assert ["app (web)", "4", "370"] in ended.rows
    assert ["c-0", "ada", "usage.deduct", "chat", "70"] in [row[:5] for row in ended.rows]
    assert "nothing has moved: --yes --reason TEXT reverses 4 charges" in ended.err
    assert balance(ledger_cli, "bob") == 10_000 - 200
    assert ledger_cli("reverse", "--list").lines[1:] == []


def test_dry_run_is_json_for_scripts(ledger_cli: Cli) -> None:
    found = ledger_cli("reverse", "--user", "ada", "--from", "1d", "--json").json
    assert (found["dryRun"], found["matched"], found["charges"], found["reversible"]) == (True, 5, 3, 3)
    assert (found["tokens"], found["partly"], found["givenBack"], found["refused"]) == (177, 1, 0, {})
    assert found["byFeature"] == [
        {"name": "chat", "charges": 2, "tokens": 170, "freeQuantity": 0},
        {"name": "ocr", "charges": 1, "tokens": 7, "freeQuantity": 0},
    ]
    assert found["selection"].startswith("user ada, from 20")


def test_dry_run_on_a_terminal_has_tables(ledger_cli: Cli) -> None:
    ended = ledger_cli("reverse", "--feature", "chat", terminal=True)
    assert "By user" in ended.out
    assert "Dry run" in ended.out


def test_dry_run_exits_with_1_where_a_refund_would_be_refused(ledger_cli: Cli) -> None:
    rule = '{"credit.*": ["gateway"]}'
    ended = ledger_cli("reverse", "--feature", "chat", BILLING_SENDERS=rule)
    assert ended.code == 1
    assert fields(ended)["can't be reversed"] == "4"
    assert "wrong_sender" in ended.out


# -- a run ------------------------------------------------------------------------------------------------


def test_run_gives_back_what_matches_and_is_listed_shown_and_logged(cli: Cli) -> None:
    with worker(cli):
        ended = cli("reverse", "--feature", "chat", *WHY, "--rate", "1000/s")
        again = cli("reverse", "--feature", "chat", *WHY)
    assert (ended.code, ended.lines) == (
        0,
        ["reverse run 1 is finished: 3 reversed, 1 rest reversed; 370 tokens back"],
    )
    assert (again.code, again.lines) == (0, ["nothing to reverse: 4 of 4 charges were given back before"])
    assert (balance(cli, "ada"), balance(cli, "bob")) == (10_000 - 7, 10_000)
    assert cli("reverse", "--list").rows[1][:5] == [
        "1",
        "finished",
        "4",
        "370",
        "3 reversed, 1 rest reversed",
    ]
    shown = cli("reverse", "--show", "1", "--state", "rest_reversed", "--json").json
    assert (shown["isDone"], shown["source"]) == (True, "feature chat")
    (item,) = shown["items"]
    assert (item["referenceId"], item["refund"], item["tokens"]) == ("c-0", "reverse:1:c-0", 70)
    lines = cli("reverse", "--show", "1", "--csv").lines
    assert [line.split(",")[0] for line in lines] == ["reference", "c-0", "c-1", "c-2", "c-3"]
    unknown = cli("reverse", "--show", "99", "--csv")
    assert (unknown.code, unknown.out) == (4, "")
    entries = cli("activity", "--subject", "reverse run 1", "--json").json["entries"]
    assert [entry["action"] for entry in entries] == ["reverse.finish", "reverse"]
    assert (entries[1]["actor"], entries[1]["reason"]) == ("ann", "wrong price")
    assert entries[1]["host"] is not None
    (_, by_run) = cli("explain", "c-0", "--json").json["refunds"]
    assert (by_run["referenceId"], by_run["tokens"], by_run["reverseRun"]) == ("reverse:1:c-0", 70, 1)
    asked = cli("explain", "reverse:1:c-0", "--json").json["asked"]
    assert (asked["description"], asked["metadata"]) == ("wrong price", {"reverse_run": 1})
    assert cli("replies").out == ""


def test_run_without_a_worker_rests_and_goes_on_with_one(cli: Cli) -> None:
    rested = cli("reverse", "--user", "bob", *WHY, "--patience", "0.2", "--json")
    assert rested.code == 1
    assert (rested.json["state"], rested.json["counts"]) == ("open", {"sent": 2})
    assert "is a worker running?" in rested.err
    assert "go on with: billing-worker reverse --resume 1" in rested.err
    with worker(cli):
        ended = cli("reverse", "--resume", "1", "--json")
    assert (ended.code, ended.json["counts"], ended.json["tokens"]) == (0, {"reversed": 2}, 200)
    assert balance(cli, "bob") == 10_000
    assert cli("reverse", "--resume", "1").code == 1


def test_run_that_leaves_charges_out_exits_with_1(cli: Cli) -> None:
    rule = '{"credit.*": ["gateway"]}'
    ended = cli("reverse", "--feature", "chat", *WHY, BILLING_SENDERS=rule)
    assert ended.code == 1
    assert "left out: 4 wrong_sender" in ended.err
    assert cli("reverse", "--list", "--json").json == {"runs": [], "next": None}


def test_cancelled_run_sends_no_more(cli: Cli) -> None:
    cli("reverse", "--user", "bob", *WHY, "--rate", "1/min", "--patience", "0.2")
    ended = cli("reverse", "--cancel", "1", "--reason", "wrong filter")
    assert ended.lines == ["reverse run 1 is open: 1 sent, 1 cancelled"]
    with worker(cli):
        assert cli("reverse", "--resume", "1").code == 1
    assert balance(cli, "bob") == 10_000 - 100


def test_refund_that_becomes_a_dead_letter_is_no_reversed_charge(cli: Cli) -> None:
    with worker(cli, senders={"credit.*": ["gateway"]}):
        rested = cli("reverse", "--user", "bob", *WHY, "--patience", "0.3")
        assert (rested.code, rested.lines) == (1, ["reverse run 1 is open: 2 sent; 0 tokens back"])
        cli("dead-letters", "drain")
        ended = cli("reverse", "--resume", "1", "--patience", "30")
    assert (ended.code, ended.lines) == (1, ["reverse run 1 is finished: 2 dead letter; 0 tokens back"])
    assert "see what was not reversed: billing-worker reverse --show 1" in ended.err
    (first, _) = cli("reverse", "--show", "1", "--json").json["items"]
    assert first["detail"].startswith("dead letter ")


def test_narrow_pattern_of_ids_refuses_them_all_before_anything_is_sent(ledger_cli: Cli) -> None:
    ended = ledger_cli("reverse", "--user", "bob", "--json", BILLING_ID_PATTERN="(adjust|due).*|[a-z0-9-]+")
    assert (ended.code, ended.json["refused"], ended.json["reversible"]) == (1, {"invalid_id": 2}, 0)


def test_broker_that_is_away_leaves_no_run(ledger_cli: Cli) -> None:
    ended = ledger_cli("reverse", "--user", "bob", *WHY, BILLING_BROKER_URL="amqp://u:p@127.0.0.1:9/")
    assert ended.code == 3
    assert ledger_cli("reverse", "--list", "--json").json["runs"] == []


# -- wrong use --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "say which charges"),
        (("--yes", "--reason", "x"), "say which charges"),
        (("--user", "ada", "--yes"), "Missing option '--reason'"),
        (("--user", "ada", "--yes", "--reason", " "), "Missing option '--reason'"),
        (("--cancel", "1"), "Missing option '--reason'"),
        (("--list", "--show", "1"), "--list and --show exclude each other"),
        (("--resume", "1", "--user", "ada"), "--resume is about a stored run"),
        (("--list", "--yes"), "--list is about a stored run"),
        (("--user", "ada", "--state", "sent"), "--state and --csv go with --show"),
        (("--user", "ada", "--csv"), "--state and --csv go with --show"),
        (("--show", "0"), "--show"),
        (("--list", "--cursor", "x"), "no number of a run"),
        (("--user", "ada", "--rate", "0"), "must be like 50/s"),
        (("--user", "ada", "--yes", "--reason", "turned \u202e", "--rate", "1/s"), "description"),
    ],
)
def test_wrong_use_names_the_way_out(ledger_cli: Cli, arguments: tuple[str, ...], text: str) -> None:
    ended = ledger_cli("reverse", *arguments)
    assert ended.code == 2
    assert text in ended.err


def test_unknown_runs_and_empty_selections_exit_with_4(ledger_cli: Cli) -> None:
    assert ledger_cli("reverse", "--feature", "nothing").code == 4
    assert ledger_cli("reverse", "--user", "nobody").code == 4
    for arguments in (("--show", "9"), ("--resume", "9"), ("--cancel", "9", "--reason", "x")):
        ended = ledger_cli("reverse", *arguments)
        assert (ended.code, "no reverse run 9" in ended.error) == (4, True)
