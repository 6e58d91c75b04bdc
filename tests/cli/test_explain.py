"""``explain``, for a person, a pipe and a script."""

from pathlib import Path

import pytest
from sqlalchemy import insert

from schemas import (
    DeductUsage,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    ReserveUsage,
    SettleUsage,
)
from tests.cli.console import Cli, FilledLedger
from tests.support.apply_commands import applied
from tests.support.query_samples import dead_letter
from worker.catalog import DEFAULT_CATALOG, load_catalog
from worker.deadletters.store import tables
from worker.ledger.senders import Sender


@pytest.fixture(autouse=True)
def ann(ledger: FilledLedger) -> None:
    """Account of ann, whose references each have a different history."""
    ledger.open("ann")
    ledger.apply(DeductUsage(reference_id="job", user_id="ann", tokens=20_000, feature="chat"))
    ledger.apply(
        PaymentSucceeded(
            reference_id="pay", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
        ),
        DeductUsage(reference_id="job", user_id="ann", tokens=20_000, feature="chat", attempt=2),
        RefundCredit(reference_id="back", user_id="ann", tokens=500, original_reference_id="job"),
        ReserveUsage(reference_id="hold", user_id="ann", tokens=300, ttl_seconds=60),
        SettleUsage(reference_id="settle", user_id="ann", original_reference_id="hold", tokens=100),
        PaymentRefunded(
            reference_id="gone", user_id="ann", original_reference_id="pay", amount_minor=999, currency="USD"
        ),
    )


def sections(shown: str) -> dict[str, list[str]]:
    """Return the lines below each heading."""
    found: dict[str, list[str]] = {}
    for part in shown.split("# ")[1:]:
        title, _, rest = part.partition("\n")
        found[title] = rest.strip("\n").split("\n")
    return found


def test_pipe_gets_each_part_as_lines_below_a_heading(ledger_cli: Cli) -> None:
    ended = ledger_cli("explain", "job")
    shown = sections(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert shown["job"][:3] == [
        "type\tusage.deduct",
        "user\tann",
        'content\t{"feature": "chat", "tokens": 20000}',
    ]
    outcomes = [line.split("\t")[:3] for line in shown["Outcomes, the last one in force"][1:]]
    assert outcomes == [["1", "rejected", "insufficient_balance"], ["2", "applied", "tokens_deducted"]]
    assert [line.split("\t")[1:3] for line in shown["Entries"][1:]] == [
        ["usage", "-10000"],
        ["usage", "-10000"],
    ]
    assert shown["Refunded by"][1].split("\t")[:2] == ["back", "500"]
    assert '"code": "tokens_deducted"' in shown["Reply"][0]


def test_sender_is_shown_where_it_is_known(ledger_cli: Cli, ledger: FilledLedger) -> None:
    command = DeductUsage(reference_id="sent", user_id="ann", tokens=1)
    ledger.apply(command, sender=Sender("ocr", "scan"))
    assert "sender\tocr (scan)" in sections(ledger_cli("explain", "sent").out)["sent"]
    assert "sender" not in ledger_cli("explain", "hold").out
    (outcome,) = ledger_cli("explain", "sent", "--json").json["outcomes"]
    assert outcome["sender"] == {"brokerUser": "ocr", "application": "scan"}


def test_attempts_of_several_senders_are_shown_with_them(ledger_cli: Cli, ledger: FilledLedger) -> None:
    for attempt, tokens, application in ((1, 10**9, "day"), (2, 1, "night")):
        ledger.apply(
            DeductUsage(reference_id="sent", user_id="ann", tokens=tokens, attempt=attempt),
            sender=Sender("ocr", application),
        )
    shown = sections(ledger_cli("explain", "sent").out)
    head, *outcomes = shown["Outcomes, the last one in force"]
    place = head.split("\t").index("sender")
    assert [line.split("\t")[place] for line in outcomes] == ["ocr (day)", "ocr (night)"]


def test_outcomes_of_a_squatted_reference_are_shown_with_their_types_and_users(
    ledger_cli: Cli, ledger: FilledLedger
) -> None:
    ledger.apply(
        DeductUsage(reference_id="pay-2", user_id="nobody", tokens=5),
        PaymentSucceeded(
            reference_id="pay-2", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
        ),
    )
    shown = sections(ledger_cli("explain", "pay-2").out)["Outcomes, the last one in force"]
    assert [line.split("\t")[:5] for line in shown[1:]] == [
        ["usage.deduct", "nobody", "1", "rejected", "account_not_found"],
        ["payment.succeeded", "ann", "1", "applied", "tokens_purchased"],
    ]


def test_payment_is_shown_with_its_events(ledger_cli: Cli) -> None:
    for reference in ("pay", "gone"):
        shown = sections(ledger_cli("explain", reference).out)
        assert "paid\t19.99 USD" in shown["Payment pay"]
        assert shown["Events of the payment"][1].split("\t")[:2] == ["gone", "refunded"]
    lots = sections(ledger_cli("explain", "pay").out)["Lots it opened, as they are now"]
    assert [line.split("\t")[1] for line in lots[1:]] == ["purchase", "purchase_bonus of 2"]


def test_hold_is_shown_with_its_end(ledger_cli: Cli) -> None:
    shown = sections(ledger_cli("explain", "settle").out)
    assert shown["Its hold"][1].split("\t")[:4] == ["hold", "settled", "300", "100"]
    assert "original\thold (usage.reserve, applied, tokens_reserved)" in shown["settle"]


def test_terminal_gets_panels_and_tables_on_one_screen(ledger_cli: Cli) -> None:
    shown = ledger_cli("explain", "settle", terminal=True)
    assert "╭─ settle" in shown.out
    assert "╭─ Reply" in shown.out
    assert "Its hold" in shown.out
    assert len(shown.lines) <= 45
    assert "\t" not in shown.out


def test_terminal_shows_some_of_many_entries_and_says_so(ledger_cli: Cli, ledger: FilledLedger) -> None:
    for number in range(25):
        ledger.apply(
            PaymentSucceeded(
                reference_id=f"p{number}",
                user_id="ann",
                package_id="starter",
                amount_minor=499,
                currency="USD",
            )
        )
    balance = ledger_cli("balance", "ann", "--json").json["balance"]
    ledger.apply(DeductUsage(reference_id="all", user_id="ann", tokens=balance))
    assert "more; --json has them all" in ledger_cli("explain", "all", terminal=True).out
    assert len(ledger_cli("explain", "all", "--json").json["entries"]) == 27


def test_reference_known_by_a_dead_letter_alone_is_explained(ledger_cli: Cli, ledger: FilledLedger) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(insert(tables.dead_letters), dead_letter("lost"))
    shown = sections(ledger_cli("explain", "lost").out)
    assert shown["lost"] == ["known only by\tdead letters"]
    assert shown["Dead letters"][1].split("\t")[:3] == ["1", "parked", "unknown_type"]
    assert "known only by" in ledger_cli("explain", "lost", terminal=True).out


def test_event_that_waits_for_its_payment_is_explained(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.apply(
        PaymentRefunded(
            reference_id="early", user_id="ann", original_reference_id="later", amount_minor=1, currency="USD"
        )
    )
    shown = sections(ledger_cli("explain", "later").out)
    assert shown["later"] == ["known only by\tevents that wait for their payment"]


def test_explanation_is_json_for_scripts(ledger_cli: Cli) -> None:
    shown = ledger_cli("explain", "gone", "--json").json
    assert shown["reply"]["code"] == "payment_refunded"
    assert shown["original"]["referenceId"] == "pay"
    assert shown["payment"]["collected"] == 137_430


def test_unknown_reference_exits_with_4_and_names_where_to_look(ledger_cli: Cli) -> None:
    ended = ledger_cli("explain", "nothing")
    assert ended.code == 4
    assert "nothing is known of the reference 'nothing'" in ended.error
    assert "billing-worker dead-letters list" in ended.error


def late(reference: str, payment: str, currency: str = "USD") -> PaymentRefunded:
    fields = {"original_reference_id": payment, "amount_minor": 500, "currency": currency}
    return PaymentRefunded.model_validate({"reference_id": reference, **fields})


def paid_later(reference: str, *names: str) -> PaymentSucceeded:
    return PaymentSucceeded(
        reference_id=reference,
        user_id="ann",
        package_id="standard",
        amount_minor=1_999,
        currency="USD",
        also_known_as=names,
    )


def test_event_that_waits_says_for_what_and_from_when_it_is_overdue(
    ledger_cli: Cli, ledger: FilledLedger
) -> None:
    ledger.apply(late("re_1", "ch_1"))
    shown = sections(ledger_cli("explain", "re_1").out)["Came before its payment"]
    assert shown[0] == "payment\tch_1"
    assert shown[2].startswith("overdue\tfrom ")
    by_name = sections(ledger_cli("explain", "ch_1").out)
    assert by_name["ch_1"] == ["known only by\tevents that wait for their payment"]
    assert by_name["Events of the payment"][1].split("\t")[:3] == ["re_1", "refunded", "waiting"]


def test_event_that_was_taken_in_names_what_took_it_in(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.apply(late("re_1", "ch_1"))
    ledger.apply(paid_later("pi_1", "ch_1"))
    shown = sections(ledger_cli("explain", "re_1").out)
    assert shown["Came before its payment"][2].startswith("taken in by\tpi_1, ")
    assert "names\tch_1, pi_1" in shown["Payment pi_1"]
    assert shown["Events of the payment"][1].split("\t")[:3] == ["re_1", "refunded", "counted"]
    by_name = sections(ledger_cli("explain", "ch_1").out)
    assert by_name["ch_1"] == ["known only by\tthe payment pi_1, of which it is a name"]


def test_event_that_cannot_count_says_why(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.apply(late("re_1", "pi_1", "EUR"))
    ledger.apply(paid_later("pi_1"))
    shown = sections(ledger_cli("explain", "re_1").out)["Came before its payment"]
    assert shown[2] == "can't count\tcurrency mismatch"


def test_explanation_has_price_and_catalog_of_each_attempt(
    ledger_cli: Cli, ledger: FilledLedger, tmp_path: Path
) -> None:
    ledger.open("ann")
    usage = RecordUsage(reference_id="scan", user_id="ann", meter="ocr", quantity=10**6)
    ledger.apply(usage)
    old = load_catalog()
    shown = sections(ledger_cli("explain", "scan").out)
    assert "price\t1,000,000 ocr; 120 tokens for each 1, rounded up, at least 120" in shown["scan"]
    assert f"catalog\t{old.digest[:12]} (in use)" in shown["scan"]
    path = tmp_path / "cheaper.toml"
    path.write_text(DEFAULT_CATALOG.read_text().replace("\ntokens = 120", "\ntokens = 110"))
    applied(ledger.engine, load_catalog(path), usage.model_copy(update={"attempt": 2}))
    again = sections(ledger_cli("explain", "scan").out)
    assert f"catalog\t{load_catalog(path).digest[:12]} (another is in use)" in again["scan"]
    rows = [line.split("\t") for line in again["Outcomes, the last one in force"]]
    place = rows[0].index("catalog")
    assert [row[place] for row in rows[1:]] == [old.digest[:12], load_catalog(path).digest[:12]]
