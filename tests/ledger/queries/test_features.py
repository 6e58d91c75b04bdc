"""Features of usage are read from the content of its operation, however they are spelled there."""

from sqlalchemy import Engine

from tests.support.query_samples import DAY, NOW, Apply, asked_catalog, given, opened, used
from worker.ledger.queries import Reader
from worker.ledger.queries.history import history
from worker.ledger.queries.snapshots import snapshot
from worker.ledger.queries.transactions import TransactionFilter, transactions

SPELLINGS = ('a"b', "back\\slash", "\\", '"feature"', '","tokens":1', "é😀", "o'hara %s", "meter")


def test_feature_is_shown_as_it_was_sent(engine: Engine, apply: Apply) -> None:
    apply(opened("ada", "none"), given("ada", 1_000), now=NOW - 5 * DAY)
    sent = [used(f"u-{place}", 1 + place, feature=name) for place, name in enumerate(SPELLINGS)]
    apply(*sent, used("none", 50), now=NOW)
    with snapshot(engine) as connection:
        shown = {
            entry.reference_id: entry.feature
            for entry in history(connection, "ada", 50, 0, None).transactions
        }
        for command in sent:
            assert shown[command.reference_id] == command.feature
            page = transactions(connection, "ada", 9, None, TransactionFilter(feature=command.feature))
            assert [one.reference_id for one in page.transactions] == [command.reference_id]
    assert shown["none"] is None
    report = Reader(engine).usage("ada", NOW, asked_catalog(), 3, "Europe/Berlin")
    assert report.by_feature == {"unlabelled": 50} | {name: 1 + SPELLINGS.index(name) for name in SPELLINGS}
