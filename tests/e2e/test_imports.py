"""Accounts of another system in numbers: on RabbitMQ and PostgreSQL, interrupted and run again."""

import json
from pathlib import Path

import pytest

from tests.cli.console import Cli
from tests.support.processes import WorkerProcesses, run_cli
from worker.bootstrap import Application
from worker.cli.imports.publishing import WINDOW
from worker.ledger.audit import audit
from worker.settings import Settings, environment_of

#: More than are sent before a reply is waited for, and than are looked up at once.
ACCOUNTS = WINDOW + 100
AS_OF = ("--as-of", "2026-11-22T10:00:00Z")


def written(folder: Path) -> list[str]:
    """Write files of ``ACCOUNTS`` accounts, each with three lots, a payment and a quota; return arguments."""
    accounts = ["user_id,tier,opened_at,balance,allocated,purchased,bonus,used,expired"]
    lots = ["user_id,source,tokens,granted,expires_at,payment_reference_id"]
    payments = ["user_id,reference_id,amount_minor,currency,package_id,tokens,bonus_tokens,paid_at"]
    quotas = ["user_id,meter,used"]
    for number in range(ACCOUNTS):
        user, left = f"user-{number}", number % 500
        accounts.append(f"{user},basic,2024-01-05T08:00:00Z,{left + 52},2000,1000,107,{3_000 - left},55")
        lots.append(f"{user},allocation,40,100,2026-12-05T08:00:00Z,")
        lots.append(f"{user},bonus,7,,,")
        lots.append(f"{user},purchase,{left + 5},,,pi-{number}")
        payments.append(f"{user},pi-{number},999,EUR,gone,1000,100,2026-11-10T00:00:00Z")
        quotas.append(f"{user},free_upload,{number + 1}")
    named = {"accounts": accounts, "lots": lots, "payments": payments, "quotas": quotas}
    for name, lines in named.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    options = [word for name in list(named)[1:] for word in (f"--{name}", str(folder / f"{name}.csv"))]
    return ["import", str(folder / "accounts.csv"), *options, *AS_OF]


def test_accounts_of_more_than_a_window_come_in_whole(
    worker_settings: Settings,
    workers: WorkerProcesses,
    application: Application,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, cli = written(tmp_path), Cli(monkeypatch, environment_of(worker_settings))
    alone = cli(*arguments, "--yes", "--timeout", "1")
    assert alone.code == 3, alone.err  # no worker: what is in the queue is applied later
    workers.start()
    workers.start()
    sent = run_cli(worker_settings, *arguments, "--yes", "--json")
    assert sent.returncode == 0, sent.stderr
    report = json.loads(sent.stdout)
    assert report["differences"]["count"] == report["refused"]["count"] == 0
    assert report["ledger"]["accounts"] == report["files"]["accounts"] == ACCOUNTS
    assert report["ledger"]["balance"] == report["files"]["balance"]
    again = cli(*arguments, "--yes", "--json").json
    assert again["foreseen"] == {"new": 0, "done": ACCOUNTS, "refused": 0}
    assert audit(application.engine).is_clean
