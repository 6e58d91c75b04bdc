"""``payments`` and ``retry``: what needs somebody, and a rejected payment that is tried again."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import DeductUsage, PaymentRefunded, PaymentSucceeded
from tests.cli.console import Cli, FilledLedger
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application, utc_now
from worker.catalog import load_catalog
from worker.settings import load_settings

CATALOG = Path("worker/catalog.toml").resolve()
WHY = ("--reason", "package added", "--actor", "ann")


def paid(reference: str, package: str = "promo", **more: Any) -> PaymentSucceeded:
    return PaymentSucceeded.model_validate(
        {
            "reference_id": reference,
            "user_id": "ada",
            "package_id": package,
            "amount_minor": 1_999,
            "currency": "USD",
            **more,
        }
    )


@pytest.fixture
def troubled(ledger: FilledLedger) -> FilledLedger:
    """A rejected payment, and a refund that waits since five days for a payment that isn't there."""
    ledger.open("ada")
    late = PaymentRefunded.model_validate(
        {
            "reference_id": "stripe:re_1",
            "original_reference_id": "stripe:pi_0",
            "amount_minor": 500,
            "currency": "USD",
        }
    )
    applied(ledger.engine, load_catalog(), late, now=utc_now() - timedelta(days=5, hours=1))
    ledger.apply(paid("stripe:pi_1", provider="stripe", description="=1+1"))
    return ledger


@pytest.fixture
def mended(tmp_path: Path) -> Path:
    """A catalog that has the package."""
    package = '\n[[packages]]\nid = "promo"\ntokens = 500\nprice_minor = 1_999\ncurrency = "USD"\n'
    path = tmp_path / "mended.toml"
    path.write_text(CATALOG.read_text() + package)
    return path


@contextmanager
def worker(cli: Cli, **more: Any) -> Iterator[Application]:
    """A worker on the broker and the ledger of ``cli``."""
    environment = cli.environment
    application = Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"],
            database_url=environment["BILLING_DATABASE_URL"],
            **more,
        )
    )
    with running(application):
        yield application
    application.engine.dispose()


# -- payments ---------------------------------------------------------------------------------------------


def test_list_has_a_plain_line_for_each_incident_in_a_pipe(ledger_cli: Cli, troubled: FilledLedger) -> None:
    ended = ledger_cli("payments")
    assert ended.code == 0
    head, rejected, overdue = ended.rows
    assert head == [
        "age", "reference", "type", "user", "gateway", "amount", "currency", "code", "what to do"
    ]  # fmt: skip
    assert rejected[1:] == [
        "stripe:pi_1",
        "payment.succeeded",
        "ada",
        "stripe",
        "19.99",
        "USD",
        "unknown_package",
        "add the package to the catalog, then retry",
    ]
    assert overdue[:2] == ["5 d 1 h", "stripe:re_1"]
    assert overdue[7] == "payment_awaited (overdue)"


def test_list_is_a_table_on_a_terminal(ledger_cli: Cli, troubled: FilledLedger) -> None:
    shown = ledger_cli("payments", terminal=True).out
    assert "Payments that need somebody: 2" in shown
    assert "19.99" in shown


def test_list_of_nothing_says_so_on_a_terminal(ledger_cli: Cli) -> None:
    assert "no payment needs anybody" in ledger_cli("payments", terminal=True).out
    assert ledger_cli("payments").code == 0


def test_filters_and_pages_find_their_own(ledger_cli: Cli, troubled: FilledLedger) -> None:
    def found(*arguments: str) -> list[str]:
        return [one["referenceId"] for one in ledger_cli("payments", *arguments, "--json").json["incidents"]]

    assert found("--rejected") == ["stripe:pi_1"]
    assert found("--waiting") == ["stripe:re_1"]
    assert found("--flagged") == []
    assert found("--from", "1d") == ["stripe:pi_1"]
    assert found("--to", "1d") == ["stripe:re_1"]
    assert found("--user", "ada") == ["stripe:pi_1"]
    assert found("--gateway", "paddle") == []
    first = ledger_cli("payments", "--limit", "1")
    assert "next page: billing-worker payments --limit 1 --cursor" in first.err
    cursor = first.err.split()[-1]
    assert found("--limit", "1", "--cursor", cursor) == ["stripe:re_1"]


def test_waiting_days_of_the_catalog_decide_what_is_overdue(
    ledger_cli: Cli, troubled: FilledLedger, tmp_path: Path
) -> None:
    patient = tmp_path / "patient.toml"
    patient.write_text(CATALOG.read_text().replace("waiting_days = 3", "waiting_days = 6"))
    ended = ledger_cli("payments", "--catalog", str(patient), "--json")
    assert [one["referenceId"] for one in ended.json["incidents"]] == ["stripe:pi_1"]
    (waiting,) = ledger_cli("payments", "--waiting", "--catalog", str(patient), "--json").json["incidents"]
    assert waiting["isOverdue"] is False


def test_csv_is_for_spreadsheets_and_no_cell_is_a_formula(ledger_cli: Cli, troubled: FilledLedger) -> None:
    troubled.apply(paid("=cmd()"))
    rows = list(csv.DictReader(io.StringIO(ledger_cli("payments", "--csv").out)))
    assert [row["reference"] for row in rows] == ["'=cmd()", "stripe:pi_1", "stripe:re_1"]
    assert (rows[1]["amount"], rows[1]["gateway"], rows[2]["overdue"]) == ("19.99", "stripe", "yes")
    assert rows[2]["payment"] == "stripe:pi_0"


def test_csv_and_json_together_are_wrong_usage(bare_cli: Cli) -> None:
    ended = bare_cli("payments", "--csv", "--json")
    assert ended.code == 2
    assert "give --csv or --json, not both" in ended.err


def test_cursor_of_no_page_is_wrong_usage(ledger_cli: Cli) -> None:
    ended = ledger_cli("payments", "--cursor", "x")
    assert ended.code == 2
    assert "the cursor is none of this list's" in ended.error


# -- retry ------------------------------------------------------------------------------------------------


def test_retried_payment_is_credited_once_and_leaves_the_list(
    cli: Cli, troubled: FilledLedger, mended: Path
) -> None:
    with worker(cli, catalog=mended):
        ended = cli("retry", "stripe:pi_1", *WHY, "--timeout", "60")
        again = cli("retry", "stripe:pi_1", *WHY, "--timeout", "60")
    assert ended.code == 0
    assert ended.rows[1][:4] == ["stripe:pi_1", "2", "applied", "tokens_purchased"]
    assert again.code == 1
    assert "'stripe:pi_1' is applied (tokens_purchased): there is nothing to try again" in again.err
    assert cli("balance", "ada", "--json").json["balance"] == 10_500
    assert cli("payments", "--rejected", "--json").json["incidents"] == []
    explained = cli("explain", "stripe:pi_1", "--json").json
    assert [one["status"] for one in explained["outcomes"]] == ["rejected", "applied"]
    assert (explained["payment"]["provider"], explained["asked"]["description"]) == ("stripe", "=1+1")


def test_retry_is_in_the_activity_log_with_actor_and_reason(
    cli: Cli, troubled: FilledLedger, mended: Path
) -> None:
    with worker(cli, catalog=mended) as application:
        cli("retry", "stripe:pi_1", *WHY, "--timeout", "60")
        (entry,) = application.service().activity_log(action="retry").entries
    assert (entry.actor, entry.subject, entry.reason) == ("ann", "stripe:pi_1", "package added")
    assert entry.detail == {"attempt": 2, "type": "payment.succeeded"}


def test_retry_that_is_rejected_again_exits_with_1_and_stays_listed(cli: Cli, troubled: FilledLedger) -> None:
    with worker(cli):
        ended = cli("retry", "stripe:pi_1", *WHY, "--timeout", "60", "--json")
    assert ended.code == 1
    (reply,) = ended.json["replies"]
    assert (reply["status"], reply["code"], reply["attempt"]) == ("rejected", "unknown_package", 2)
    (incident,) = cli("payments", "--rejected", "--json").json["incidents"]
    assert incident["attempt"] == 2


def test_several_payments_are_tried_again_in_one_call(cli: Cli, troubled: FilledLedger, mended: Path) -> None:
    troubled.apply(*(paid(f"more-{n}") for n in range(5)))
    references = ["stripe:pi_1", *(f"more-{n}" for n in range(5))]
    with worker(cli, catalog=mended):
        ended = cli("retry", *references, "more-1", *WHY, "--timeout", "60")
    assert ended.code == 0
    assert [row[0] for row in ended.rows[1:]] == references
    assert cli("balance", "ada", "--json").json["balance"] == 13_000


def test_dry_run_says_what_would_come_of_it_and_sends_nothing(
    cli: Cli, troubled: FilledLedger, mended: Path, rabbit: RabbitClient
) -> None:
    would = cli("retry", "stripe:pi_1", "--dry-run", "--catalog", str(mended), "--json")
    (reply,) = would.json["replies"]
    assert (would.code, would.json["dryRun"], reply["status"], reply["amount"]) == (0, True, "applied", 500)
    still = cli("retry", "stripe:pi_1", "--dry-run")
    assert (still.code, still.rows[0][2], still.rows[1][2]) == (1, "would be", "rejected")
    assert rabbit.depth("billing.payments") == 0
    assert cli("payments", "--rejected", "--json").json["incidents"][0]["attempt"] == 1


def test_retry_without_a_worker_exits_with_3_and_is_applied_once_later(
    cli: Cli, troubled: FilledLedger, mended: Path, rabbit: RabbitClient
) -> None:
    for _ in range(2):
        ended = cli("retry", "stripe:pi_1", *WHY, "--timeout", "0.2")
        assert ended.code == 3
        assert "no reply to 'stripe:pi_1' within 0.2 s" in ended.err
    assert rabbit.depth("billing.payments") == 2
    with worker(cli, catalog=mended):
        rabbit.request({"type": "account.settle", "referenceId": "after", "userId": "ada"})
    assert cli("balance", "ada", "--json").json["balance"] == 10_500


@pytest.mark.parametrize(
    ("references", "code", "expected"),
    [
        (("nobody",), 4, "no operation has the reference 'nobody'"),
        (("stripe:re_1",), 1, "'stripe:re_1' waits for its payment and counts when that comes"),
        (("open-ada",), 1, "'open-ada' is applied (account_opened)"),
        (("poor",), 1, "'poor' is a usage.deduct without a payment: its sender tries it again"),
        (("stripe:pi_1", "poor"), 1, "'poor' is a usage.deduct"),
    ],
)
def test_reference_of_no_rejected_payment_is_refused(
    cli: Cli,
    troubled: FilledLedger,
    rabbit: RabbitClient,
    references: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    troubled.apply(DeductUsage(reference_id="poor", user_id="ada", tokens=10**9))
    ended = cli("retry", *references, *WHY)
    assert ended.code == code
    assert expected in ended.error
    assert rabbit.depth("billing.payments") == 0


def test_retry_without_a_reason_is_wrong_usage(cli: Cli, troubled: FilledLedger) -> None:
    ended = cli("retry", "stripe:pi_1")
    assert ended.code == 2
    assert "say why with --reason" in ended.err
    empty = cli("retry", "stripe:pi_1", "--reason", " ", "--actor", "ann")
    assert (empty.code, "say why" in empty.error) == (1, True)


def test_command_that_this_version_refuses_is_refused_with_its_field(
    cli: Cli, troubled: FilledLedger
) -> None:
    troubled.apply(paid("old").model_copy(update={"currency": "dollars"}))
    ended = cli("retry", "old", *WHY)
    assert ended.code == 1
    assert "'old' is refused by this version: currency" in ended.error
