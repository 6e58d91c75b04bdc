"""``import``: files that are wrong name their lines; right ones go through the queue and are compared."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from schemas import DeductUsage
from tests.cli.console import Cli, Ended, FilledLedger
from tests.cli.test_adjust import worker
from tests.support.commands import importing, went_back
from worker.ledger.audit import audit

AS_OF = ("--as-of", "2026-11-22T10:00:00Z")
ACCOUNTS = """user_id,tier,opened_at,anchor,balance,allocated,purchased,bonus,used,expired
ada,basic,2024-01-05T08:00:00Z,2024-01-03T00:00:00Z,340,2000,1000,100,2460,300
ben,free,2025-03-05T08:00:00Z,,25,25,,,,
"cyd, o'x",free,2025-03-05T08:00:00Z,,-70,0,100,,170,
"""
LOTS = """user_id,source,tokens,granted,expires_at,priority,payment_reference_id
ada,allocation,40,100,2999-12-03T00:00:00Z,,
ada,purchase,300,,,,pi-1
"""
PAYMENTS = """user_id,reference_id,amount_minor,currency,package_id,tokens,bonus_tokens,paid_at,provider
ada,pi-1,999,EUR,gone,1000,100,2026-11-10T00:00:00Z,stripe
"""
QUOTAS = "user_id,meter,used\nada,free_upload,12\n"

Write = Callable[..., list[str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files, and return the arguments that name them."""

    def files(accounts: str | bytes = ACCOUNTS, **parts: str | bytes) -> list[str]:
        arguments = []
        for name, content in {"accounts": accounts, **parts}.items():
            path = tmp_path / f"{name}.csv"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            arguments += [str(path)] if name == "accounts" else [f"--{name}", str(path)]
        return arguments

    return files


@pytest.fixture
def whole(write: Write) -> list[str]:
    """All four files, without an allocation that outlasts its period."""
    lots = LOTS.replace("2999-12-03", "2026-12-03")
    return write(lots=lots, payments=PAYMENTS, quotas=QUOTAS)


def sums(ended: Ended, column: str = "files") -> dict[str, str]:
    header, *rows = [row for row in ended.rows if len(row) > 1]
    return {row[0]: row[header.index(column)] for row in rows}


# -- the dry run ------------------------------------------------------------------------------------------


def test_dry_run_shows_the_sums_and_sends_nothing(ledger_cli: Cli, whole: list[str]) -> None:
    ended = ledger_cli("import", *whole, *AS_OF)
    assert (ended.code, ended.err) == (0, "")
    assert sums(ended) == {
        "accounts": "3",
        "balance": "295",
        "debt": "70",
        "allocated": "2025",
        "purchased": "1100",
        "bonus": "100",
        "refunded": "0",
        "adjusted": "0",
        "used": "2630",
        "expired": "300",
        "reversed": "0",
        "lots": "3",
        "payments": "1",
        "quotas": "12",
    }
    assert ended.lines[-2:] == ["3 new, 0 done, 0 refused", "nothing was sent; --yes sends it"]
    assert ledger_cli("stats", "--json").json["users"] == 0


def test_control_totals_are_compared(ledger_cli: Cli, whole: list[str]) -> None:
    ended = ledger_cli("import", *whole, *AS_OF, "--expect", "balance=300", "--expect", "accounts=3")
    assert ended.code == 1
    assert ended.err == "balance is 295, and 300 is expected: the difference is -5\n"
    assert sums(ended, "expected")["balance"] == "300"
    assert ended.lines[-1] == "nothing was sent"


def test_control_total_that_is_off_keeps_everything_from_being_sent(cli: Cli, whole: list[str]) -> None:
    ended = cli("import", *whole, *AS_OF, "--expect", "balance=300", "--yes")
    assert ended.code == 1
    assert "nothing was sent" in ended.out


def test_dry_run_shows_what_the_ledger_would_refuse(
    ledger_cli: Cli, ledger: FilledLedger, write: Write
) -> None:
    ledger.open("ben")
    accounts = ACCOUNTS + "dan,gold,2025-03-05T08:00:00Z,,0,,,,,\n"
    ended = ledger_cli("import", *write(accounts, lots=LOTS, payments=PAYMENTS), *AS_OF, "--json")
    assert ended.code == 1
    assert ended.json["foreseen"] == {"new": 1, "done": 0, "refused": 3}
    assert ended.json["refused"]["first"] == [
        (
            "user ada: An allocation until 2999-12-03 00:00Z outlasts its period, which ends on "
            "2026-12-03 00:00Z; import it as carried_over"
        ),
        "user ben: User ben already has an account on tier free",
        "user dan: Unknown subscription tier gold",
    ]


def test_dry_run_needs_no_broker_and_a_migrated_ledger(bare_cli: Cli, tmp_path: Path, write: Write) -> None:
    ended = bare_cli("import", *write(), *AS_OF, BILLING_DATABASE_URL=f"sqlite:///{tmp_path / 'new.sqlite3'}")
    assert ended.code == 2
    assert "billing-worker migrate" in ended.err


# -- bad files --------------------------------------------------------------------------------------------

HEADER = "user_id,tier,opened_at,balance,used,purchased\n"
GOOD = "ada,free,2024-01-05T08:00:00Z,"


@pytest.mark.parametrize(
    ("accounts", "problem"),
    [
        ("", "accounts.csv: is empty; it needs a header with user_id, tier"),
        ("user_id;tier;balance\n", "accounts.csv line 1: its columns are separated by ';'"),
        ("user_id,tier,opened_at\n", "accounts.csv line 1, column balance: is missing in the header"),
        (HEADER.replace("used", "usd"), "accounts.csv line 1, column usd: is not known; did you mean used?"),
        (HEADER.replace("used", "user_id"), "accounts.csv line 1, column user_id: is there twice"),
        (f"{HEADER}{GOOD}5\n", "accounts.csv line 2: has 4 fields, and the header has 6"),
        (f"{HEADER}{GOOD},,\n", "accounts.csv line 2, column balance: is empty"),
        (f"{HEADER}{GOOD}1e3,,\n", "accounts.csv line 2, column balance: '1e3' is no whole number"),
        (f"{HEADER}{GOOD}5.0,,\n", "accounts.csv line 2, column balance: '5.0' is no whole number"),
        (f'{HEADER}{GOOD}"1,000",,\n', "accounts.csv line 2, column balance: '1,000' is no whole number"),
        (f"{HEADER}{GOOD}٣,,\n", "accounts.csv line 2, column balance: '٣' is no whole number"),
        (f"{HEADER}{GOOD}5,1e3,\n", "accounts.csv line 2, column used: totals.used: must be a whole number"),
        (f"{HEADER}{GOOD}5,-1,4\n", "accounts.csv line 2, column used: totals.used: must be 0 or more"),
        (
            f"{HEADER}{GOOD}5,,6\n",
            "accounts.csv line 2: totals come to a balance of 6, but lots and debt to 5",
        ),
        (
            f'{HEADER}"ada,free,2024\n',
            "accounts.csv line 2: is no CSV: unexpected end of data; is a quote left",
        ),
        (f"{HEADER}{GOOD}5,,5\n{GOOD}5,,5\n", "accounts.csv line 3, column user_id: 'ada' is there twice"),
        (
            f"{HEADER}ada,free,2024-01-05,5,,5\n",
            "accounts.csv line 2, column opened_at: openedAt: must be an RFC",
        ),
        (f"{HEADER}ada,free,2027-01-05T08:00:00Z,5,,5\n", "accounts.csv line 2: openedAt 2027"),
        (
            f"{HEADER} ada,free,2024-01-05T08:00:00Z,5,,5\n",
            "accounts.csv line 2, column user_id: userId: holds",
        ),
        (
            f"{HEADER}{'x' * 195},free,2024-01-05T08:00:00Z,5,,5\n",
            "accounts.csv line 2, column user_id: referenceId",
        ),
        (
            f"{HEADER}{'x' * 5000},free,2024-01-05T08:00:00Z,5,,5\n",
            "accounts.csv line 2: is no CSV: field larger",
        ),
        (
            HEADER.encode() + b"ad\xe4,free,2024-01-05T08:00:00Z,5,,5\n",
            "accounts.csv line 2: is not UTF-8: bad byte at 2",
        ),
        (HEADER.encode("utf-16"), "accounts.csv line 1: is not UTF-8"),
        (f"{HEADER}a\0da,free,2024-01-05T08:00:00Z,5,,5\n", "accounts.csv line 2"),
    ],
)
def test_bad_file_of_accounts_names_line_and_column(
    ledger_cli: Cli, write: Write, accounts: str | bytes, problem: str
) -> None:
    ended = ledger_cli("import", *write(accounts), *AS_OF)
    assert ended.code == 1
    assert ended.err.startswith(problem), ended.err
    assert ended.lines[-1] == "nothing was sent"


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (
            {"lots": "user_id,source,tokens\nada,bonus,1e3\n"},
            "lots.csv line 2, column tokens: lots.0.tokens: must be a whole number",
        ),
        (
            {"lots": "user_id,source,tokens\nada,bonus,-5\n"},
            "accounts.csv line 2, column balance: 340, but the lots",
        ),
        (
            {"lots": "user_id,source,tokens\nada,bonus,339\n"},
            "accounts.csv line 2, column balance: 340, but the lots come to 339: the difference is 1",
        ),
        (
            {"lots": "user_id,source,tokens\nada,gift,340\n"},
            "lots.csv line 2, column source: lots.0.source",
        ),
        (
            {"lots": "user_id,source,tokens\nada,refund,140\nada,bonus,200\n"},
            "accounts.csv line 2: lots and payments were granted",
        ),
        (
            {"lots": "user_id,source,tokens,expires_at\nada,bonus,300,\nada,bonus,40,2027\n"},
            "lots.csv line 3, column expires_at: lots.1.expiresAt: must be an RFC 3339 time",
        ),
        (
            {"lots": "user_id,source,tokens,payment_reference_id\nada,purchase,340,pi-9\n"},
            "lots.csv line 2: lots.0: payments does not list its payment 'pi-9'",
        ),
        (
            {"lots": "user_id,source,tokens\nzoe,bonus,5\n"},
            "lots.csv line 2, column user_id: this user is not in accounts",
        ),
        (
            {"payments": PAYMENTS + PAYMENTS.splitlines()[1]},
            "payments.csv line 3, column reference_id: 'pi-1' is there",
        ),
        (
            {"payments": PAYMENTS.replace("EUR", "eur")},
            "payments.csv line 2, column currency: payments.0.currency",
        ),
        (
            {"payments": PAYMENTS.replace("999", "9.99")},
            "payments.csv line 2, column amount_minor: payments.0.amountMinor: must be a whole number",
        ),
        ({"payments": PAYMENTS.replace("2026-11-10", "2027-11-10")}, "payments.csv line 2, column paid_at"),
        ({"quotas": "user_id,meter,used\nada,ocr,x\n"}, "quotas.csv line 2, column used: quotas.0.used"),
        (
            {"quotas": "user_id,meter,used\nada,ocr,1\nada,ocr,2\n"},
            "accounts.csv line 2: quotas: 'ocr' is given twice",
        ),
    ],
)
def test_bad_row_of_another_file_names_its_line_and_column(
    ledger_cli: Cli, write: Write, parts: dict[str, str], problem: str
) -> None:
    ended = ledger_cli("import", *write(**parts), *AS_OF)
    assert ended.code == 1
    assert ended.err.startswith(problem), ended.err


def test_only_the_first_problems_are_shown(ledger_cli: Cli, write: Write) -> None:
    ended = ledger_cli("import", *write(HEADER + "x,free,y,5,,5\n" * 30), *AS_OF)
    assert len(ended.err.splitlines()) == 21
    assert ended.err.splitlines()[-1] == "… and 10 more problems"


def test_file_of_excel_is_read(ledger_cli: Cli, write: Write) -> None:
    content = "\ufeff" + ACCOUNTS.replace("\n", "\r\n")
    assert ledger_cli("import", *write(content), *AS_OF).code == 0


def test_balance_without_lots_is_one_lot_of_unknown_origin(ledger_cli: Cli, write: Write) -> None:
    ended = ledger_cli("import", *write(f"{HEADER}{GOOD}5,,5\n"), *AS_OF, "--json")
    assert (ended.code, ended.json["files"]["lots"], ended.json["files"]["purchased"]) == (0, 1, 5)


def test_missing_file_and_wrong_options_are_usage_errors(
    ledger_cli: Cli, write: Write, tmp_path: Path
) -> None:
    missing = ledger_cli("import", str(tmp_path / "no.csv"), *AS_OF)
    assert (missing.code, "can't be read" in missing.err) == (2, True)
    assert ledger_cli("import", *write()).code == 2
    assert "RFC 3339" in ledger_cli("import", *write(), "--as-of", "yesterday").err
    assert "known are accounts" in ledger_cli("import", *write(), *AS_OF, "--expect", "tokens=5").err
    assert "no whole number" in ledger_cli("import", *write(), *AS_OF, "--expect", "used=5.5").err


# -- sent -------------------------------------------------------------------------------------------------


def test_sent_import_equals_the_files_and_is_done_the_next_time(
    cli: Cli, ledger: FilledLedger, whole: list[str]
) -> None:
    with worker(cli):
        ended = cli("import", *whole, *AS_OF, "--yes")
        again = cli("import", *whole, *AS_OF, "--yes")
    assert ended.code == 0, ended.err
    there = sums(ended, "ledger")
    assert {name: number for name, number in sums(ended).items() if name not in ("debt", "lots")} == {
        name: number for name, number in there.items() if number
    }
    assert ended.lines[-2:] == ["3 new, 0 done, 0 refused", "sent: 3 applied; 0 differences"]
    assert again.lines[-2:] == ["0 new, 3 done, 0 refused", "sent: nothing; 0 differences"]
    assert cli("balance", "cyd, o'x", "--json").json["balance"] == -70
    assert ledger.apply(went_back(999, user_id="ada", original_reference_id="pi-1")) == ["payment_refunded"]
    assert audit(ledger.engine).is_clean


def test_others_are_sent_where_some_would_be_refused_on_demand(
    cli: Cli, ledger: FilledLedger, whole: list[str]
) -> None:
    ledger.open("ben")
    with worker(cli):
        none = cli("import", *whole, *AS_OF, "--yes")
        some = cli("import", *whole, *AS_OF, "--yes", "--partial")
    assert (none.code, none.lines[-1]) == (1, "nothing was sent")
    assert (some.code, some.lines[-1]) == (1, "sent: 2 applied; 1 differences")
    assert "user ben: is not in the ledger" in some.err


def test_usage_since_the_import_is_no_difference(cli: Cli, ledger: FilledLedger, whole: list[str]) -> None:
    with worker(cli):
        cli("import", *whole, *AS_OF, "--yes")
        ledger.apply(DeductUsage(reference_id="d", user_id="ada", tokens=7))
        assert cli("import", *whole, *AS_OF, "--yes").lines[-1] == "sent: nothing; 0 differences"


def test_stored_rejection_is_judged_anew_by_a_higher_attempt(
    ledger_cli: Cli, ledger: FilledLedger, write: Write
) -> None:
    rejected = importing("dan", referenceId="import/dan", tier="gone")
    assert ledger.apply(rejected) == ["unknown_tier"]
    arguments = (*write("user_id,tier,opened_at,balance\ndan,free,2024-01-05T08:00:00Z,0\n"), *AS_OF)
    assert "conflict" not in ledger_cli("import", *arguments).err
    assert ledger_cli("import", *arguments).code == 1
    assert ledger_cli("import", *arguments, "--attempt", "2").lines[-2] == "1 new, 0 done, 0 refused"


def test_changed_file_is_a_conflict(cli: Cli, write: Write, whole: list[str]) -> None:
    with worker(cli):
        cli("import", *whole, *AS_OF, "--yes")
        changed = cli("import", *whole, "--as-of", "2026-11-22T10:00:01Z")
    assert changed.code == 1
    assert "user ada: the reference names another operation: asOf was" in changed.err


def test_difference_between_ledger_and_files_is_shown(
    cli: Cli, ledger: FilledLedger, whole: list[str]
) -> None:
    with worker(cli):
        cli("import", *whole, *AS_OF, "--yes")
    with ledger.engine.begin() as connection:
        for (trigger,) in connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ).all():
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        connection.exec_driver_sql(
            "UPDATE entries SET amount = amount - 5 WHERE counter = 'U' AND sequence = 2"
        )
    ended = cli("import", *whole, *AS_OF, "--yes")
    assert ended.code == 1
    assert "user ada: used is 2465 in the ledger, and 2460 in the file" in ended.err
    assert "user ada: balance is 335 in the ledger, and 340 in the file" in ended.err


def test_import_without_a_worker_says_how_to_go_on(cli: Cli, whole: list[str]) -> None:
    ended = cli("import", *whole, *AS_OF, "--yes", "--timeout", "0.2")
    assert ended.code == 3
    assert "Run the same again" in ended.error


def test_refusal_for_a_missing_right_is_shown(cli: Cli, whole: list[str]) -> None:
    cli.environment["BILLING_SENDERS"] = '{"payment.*": ["bridge"]}'
    with worker(cli, senders={"payment.*": ["bridge"]}):
        ended = cli("import", *whole, *AS_OF, "--yes")
    assert ended.code == 1
    assert "may not send account.import" in ended.err
