"""``dead-letters resolve --applied``: dead letters whose operation the ledger has by now; needs no broker."""

import json
from datetime import UTC, datetime

from schemas import DeductUsage
from tests.cli.console import Cli, FilledLedger
from tests.cli.dead_letters.parts import AWAY
from tests.console import sample_data
from worker.bootstrap import Application
from worker.settings import load_settings


def test_applied_dead_letters_are_resolved_and_others_wait(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger_cli.environment["BILLING_BROKER_URL"] = AWAY
    url = ledger_cli.environment["BILLING_DATABASE_URL"]
    application = Application(load_settings(broker_url=AWAY, database_url=url))
    messages = [
        {"type": "usage.deduct", "userId": "ann", "referenceId": f"r-{n}", "tokens": 5} for n in range(3)
    ]
    now = datetime.now(UTC)
    sample_data.drain(application.service(), [sample_data.refused(each, now) for each in messages])
    for n, tokens in ((0, 5), (1, 5), (2, 6)):
        ledger.apply(DeductUsage(reference_id=f"r-{n}", user_id="ann", tokens=tokens))
    assert "applied\tthe ledger has its operation, with the same content; billing-worker dead-letters" in (
        ledger_cli("dead-letters", "show", "1").out
    )
    assert application.service().mark_applied().found == 2
    application.engine.dispose()
    listed = ledger_cli("dead-letters", "list", "--status", "applied")
    assert [row[:2] for row in listed.rows[1:]] == [["2", "applied"], ["1", "applied"]]
    exported = ledger_cli("dead-letters", "export", "--status", "applied").lines
    assert [json.loads(line)["number"] for line in exported] == [2, 1]
    refused = ledger_cli("dead-letters", "resolve", "--reason", "sent again")
    assert (refused.code, "--applied" in refused.err) == (2, True)
    ended = ledger_cli("dead-letters", "resolve", "--applied", "--yes", "--reason", "sent again")
    assert (ended.code, ended.out) == (0, "resolved 2; 1 not applied\n")
    assert [row[:2] for row in ledger_cli("dead-letters", "list").rows[1:]] == [["3", "parked"]]
    assert ledger_cli("dead-letters", "list", "--status", "applied").rows[1:] == []
