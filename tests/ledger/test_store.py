"""The store on both dialects: it writes what was decided, and the database keeps it true."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, permutations
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from schemas import (
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
)
from tests.support.apply_commands import applied
from tests.support.forms import settle_awaited
from tests.support.in_world import in_world
from tests.support.model import Model, predicted
from tests.support.provision import PostgresServer
from tests.support.query_plans import keyless, recorded_statements
from tests.support.strategies import SMALL_CATALOG, crowded_days, cut, examples
from worker.catalog import Catalog, load_catalog
from worker.core import Answer, Decided, decide, reply_for
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, entries, operations, payments, quota_entries, superseded_outcomes

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
Apply = Callable[..., Sequence[Answer]]


def outcome_codes(answers: Sequence[Answer]) -> list[str]:
    return [answer.outcome.code if isinstance(answer, Decided) else "conflict" for answer in answers]


def replies_to(ledger: Ledger, commands: Sequence[Command], now: datetime = NOW) -> list[dict[str, Any]]:
    """Take a batch from load to reply, on the small catalog; return the replies."""
    with ledger.begin(commands, now) as transaction:
        known = transaction.known
        plan = decide(commands, known, now, SMALL_CATALOG)
        transaction.write(plan)
    answered = zip(commands, plan.answers, strict=True)
    return [json.loads(reply_for(command, answer).to_json()) for command, answer in answered]


_worlds = count()


@settings(examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(day=crowded_days(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=24))
def test_any_batches_come_to_what_the_model_says_one_by_one(
    engine: Engine, day: list[Command], sizes: list[int]
) -> None:
    world = next(_worlds)
    commands = [in_world(world, command) for command in day]
    ledger, model = Ledger(engine), Model(SMALL_CATALOG)
    replies = [reply for batch in cut(commands, sizes) for reply in replies_to(ledger, batch)]
    expected = [model.apply(command, NOW) for command in commands]
    assert [predicted(reply) for reply in replies] == expected
    with engine.connect() as connection:
        stored = connection.execute(
            select(accounts.c.user_id, accounts.c.balance).where(accounts.c.user_id.startswith(f"{world}-"))
        )
        assert {row.user_id: row.balance for row in stored} == model.balances()
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))  # without statistics PostgreSQL audits in twice the time
    settle_awaited(Ledger(engine), engine, SMALL_CATALOG)
    assert audit(engine).is_clean


def test_every_order_of_a_top_up_a_deduction_its_duplicate_and_a_conflict(engine: Engine) -> None:
    ledger = Ledger(engine)
    messages: list[Command] = [
        BonusCredit(reference_id="top-up", user_id="u", tokens=100),
        DeductUsage(reference_id="job", user_id="u", tokens=150),
        DeductUsage(reference_id="job", user_id="u", tokens=150),
        DeductUsage(reference_id="job", user_id="u", tokens=40),
        DeductUsage(reference_id="job", user_id="u", tokens=150, attempt=2),
    ]
    for world, order in enumerate(permutations(messages)):
        opening = OpenAccount(reference_id="open", user_id="u", tier="free")
        commands = [in_world(world, command) for command in (opening, *order)]
        model = Model(SMALL_CATALOG)
        expected = [model.apply(command, NOW) for command in commands]
        # Cut at another place each time: within one transaction, or over several.
        batches = cut(commands, [world % 5 + 1, world % 3 + 1])
        replies = [predicted(reply) for batch in batches for reply in replies_to(ledger, batch)]
        assert replies == expected
    assert audit(engine).is_clean


def test_a_reply_is_the_same_when_it_is_read_back(engine: Engine) -> None:
    ledger = Ledger(engine)
    commands: list[Command] = [
        OpenAccount(reference_id="o", user_id="u", tier="free", metadata={"plan": "x"}),
        DeductUsage(reference_id="d", user_id="u", tokens=30, occurred_at=NOW, description="ä\U0001f600"),
        DeductUsage(reference_id="poor", user_id="u", tokens=3000),
        FreeUpload(reference_id="f", user_id="u", bytes=10),
        FreeUpload(reference_id="f2", user_id="u", bytes=1000),
        PaymentSucceeded(reference_id="p", user_id="u", package_id="rich", amount_minor=999, currency="EUR"),
        PaymentSucceeded(reference_id="p2", user_id="u", package_id="rich", amount_minor=1, currency="EUR"),
        DeductUsage(reference_id="nobody", user_id="nobody", tokens=1),
    ]
    first = replies_to(ledger, commands)
    again = replies_to(ledger, commands)
    assert again == [{**reply, "duplicate": True} for reply in first]


def test_an_account_that_was_not_opened_leaves_no_row(engine: Engine) -> None:
    replies_to(Ledger(engine), [OpenAccount(reference_id="o", user_id="u", tier="gold")])
    with engine.connect() as connection:
        assert connection.execute(select(accounts)).all() == []


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    ledger = Ledger(engine)
    commands = [OpenAccount(reference_id="o", user_id="u", tier="free")]

    def fail_after_writing() -> None:
        with ledger.begin(commands, NOW) as transaction:
            known = transaction.known
            transaction.write(decide(commands, known, NOW, SMALL_CATALOG))
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        fail_after_writing()
    with engine.connect() as connection:
        for table in (accounts, operations, entries):
            assert connection.execute(select(table)).all() == []


def test_a_claim_that_another_worker_won_is_contention(postgres_engine: Engine) -> None:
    """The unique key decides even where nothing was locked: the user has no account."""
    ledger = Ledger(postgres_engine)
    commands = [DeductUsage(reference_id="r", user_id="nobody", tokens=1)]

    def lose() -> None:
        with ledger.begin(commands, NOW) as transaction:
            plan = decide(commands, transaction.known, NOW, SMALL_CATALOG)
            assert replies_to(Ledger(postgres_engine), commands)[0]["duplicate"] is False
            transaction.write(plan)

    with pytest.raises(ContentionError, match="reference_id"):
        lose()
    assert replies_to(ledger, commands)[0]["duplicate"] is True


def test_a_deduction_whose_reference_another_user_won_is_contention(postgres_engine: Engine) -> None:
    ledger = Ledger(postgres_engine)
    opened = [OpenAccount(reference_id=f"o-{user}", user_id=user, tier="free") for user in ("u", "v")]
    replies_to(ledger, opened)
    before = replies_to(ledger, [DeductUsage(reference_id="before", user_id="u", tokens=1)])
    batch = [DeductUsage(reference_id=name, user_id="u", tokens=1) for name in ("q", "r")]

    def lose_the_second() -> None:
        with ledger.begin(batch, NOW) as transaction:
            known = transaction.known
            plan = decide(batch, known, NOW, SMALL_CATALOG)
            replies_to(Ledger(postgres_engine), [DeductUsage(reference_id="r", user_id="v", tokens=1)])
            transaction.write(plan)

    with pytest.raises(ContentionError, match="reference_id"):
        lose_the_second()
    again = replies_to(ledger, [batch[0]])
    assert again[0]["balanceBefore"] == before[0]["balanceAfter"]
    assert audit(postgres_engine).is_clean


@pytest.mark.parametrize("count", [1, 40])
def test_an_account_that_moved_although_it_was_locked_is_contention(
    count: int, postgres_engine: Engine
) -> None:
    ledger = Ledger(postgres_engine)
    replies_to(ledger, [OpenAccount(reference_id="o", user_id="u", tier="free")])
    batch = [DeductUsage(reference_id=f"d{number}", user_id="u", tokens=1) for number in range(count)]

    def decide_on_another_sequence() -> None:
        with ledger.begin(batch, NOW) as transaction:
            known = transaction.known
            plan = decide(batch, known, NOW, SMALL_CATALOG)
            plan.accounts[0].sequence_before += 1
            transaction.write(plan)

    with pytest.raises(ContentionError, match="although they were locked"):
        decide_on_another_sequence()
    assert audit(postgres_engine).is_clean


def test_a_batch_of_500_costs_a_handful_of_statements(engine: Engine, apply: Apply) -> None:
    users = [f"u{n}" for n in range(100)]
    apply(*(OpenAccount(reference_id=f"o-{user}", user_id=user, tier="pro") for user in users))
    rng = random.Random(1)
    batch = [
        DeductUsage(reference_id=f"d{n}", user_id=rng.choice(users), tokens=rng.randint(1, 9))
        for n in range(500)
    ]
    with counted_statements(engine) as statements:
        apply(*batch)
    needed = [statement for statement in statements if not is_for_ids(statement)]
    assert len(needed) == (4 if engine.dialect.name == "postgresql" else 7), statements
    with counted_statements(engine) as statements:
        apply(*batch)  # all duplicates
    assert len([statement for statement in statements if not is_for_ids(statement)]) <= 4, statements


def is_for_ids(statement: str) -> bool:
    """True for a statement that takes a block of ids, or finds the catalog's: once in many batches."""
    return "id_counters" in statement or "catalogs" in statement


def test_any_batch_is_written_with_one_statement(postgres_engine: Engine, catalog: Catalog) -> None:
    pay = {"package_id": "starter", "amount_minor": 499, "currency": "USD"}
    batches: list[list[Command]] = [
        [
            OpenAccount(reference_id="o", user_id="u", tier="pro"),
            DeductUsage(reference_id="d", user_id="u", tokens=5),
            ReserveUsage(reference_id="h1", user_id="u", tokens=9, ttl_seconds=60),
            ReserveUsage(reference_id="h2", user_id="u", tokens=9, ttl_seconds=60),
            PaymentSucceeded(reference_id="p1", user_id="u", **pay),
        ],
        [
            DeductUsage(reference_id="d2", user_id="u", tokens=5),
            RecordUsage(reference_id="m", user_id="u", meter="upload", quantity=1),
            ReserveUsage(reference_id="h3", user_id="u", tokens=9, ttl_seconds=60),
            SettleUsage(reference_id="s", user_id="u", tokens=9, original_reference_id="h1"),
            RefundCredit(reference_id="r", user_id="u", tokens=1, original_reference_id="d"),
            PaymentSucceeded(reference_id="p2", user_id="u", **pay),
            PaymentRefunded(
                reference_id="pr", user_id="u", original_reference_id="p1", amount_minor=9, currency="USD"
            ),
        ],
    ]
    for batch in batches:
        with counted_statements(postgres_engine) as statements:
            answers = applied(postgres_engine, catalog, *batch)
        assert all(isinstance(answer, Decided) and answer.outcome.is_applied for answer in answers)
        statements = [statement for statement in statements if not is_for_ids(statement)]
        assert verbs(statements).count("write") == 1
        assert verbs(statements).count("insert") == (1 if batch is batches[0] else 0)  # an account
        assert not {"update", "delete"} & set(verbs(statements))
    assert audit(postgres_engine).is_clean


def test_update_is_not_planned_for_an_empty_table(postgres_url: str, catalog: Catalog) -> None:
    engine = ledger_engine(postgres_url, only_by_key=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # from now on PostgreSQL knows that there are no holds
    users = [f"u{number}" for number in range(5)]
    applied(engine, catalog, *(OpenAccount(reference_id=f"o-{u}", user_id=u, tier="pro") for u in users))
    applied(
        engine,
        catalog,
        *(ReserveUsage(reference_id=f"h-{u}", user_id=u, tokens=9, ttl_seconds=60) for u in users),
    )
    with recorded_statements(engine) as statements:
        applied(
            engine,
            catalog,
            *(ReserveUsage(reference_id=f"i-{u}", user_id=u, tokens=9, ttl_seconds=60) for u in users),
            *(ReleaseUsage(reference_id=f"r-{u}", user_id=u, original_reference_id=f"h-{u}") for u in users),
        )
    writes = [one for one in statements if one[0].startswith("EXECUTE write_batch")]
    assert len(writes) == 1
    assert keyless(engine, writes, "holds") == []
    engine.dispose()


def test_capture_asks_for_the_hold_and_not_for_its_opening(postgres_engine: Engine, catalog: Catalog) -> None:
    opening = OpenAccount(reference_id="o", user_id="u", tier="pro")
    hold = ReserveUsage(reference_id="h", user_id="u", tokens=9, ttl_seconds=60)
    applied(postgres_engine, catalog, opening, hold)
    settling = SettleUsage(reference_id="s", user_id="u", tokens=9, original_reference_id="h")
    with counted_statements(postgres_engine) as statements:
        applied(postgres_engine, catalog, settling)
    statements = [statement for statement in statements if not is_for_ids(statement)]
    assert verbs(statements).count("select") == 3  # outcomes, lots, open holds


def test_the_statements_of_a_batch_scan_no_table(postgres_engine: Engine, catalog: Catalog) -> None:
    with postgres_engine.begin() as connection:
        for statement in _MANY_ACCOUNTS:
            connection.execute(text(statement))
    deductions = [DeductUsage(reference_id=f"d{n}", user_id=f"u{n}", tokens=1) for n in range(1, 51)]
    batches: list[list[Command]] = [
        [*deductions, *deductions],
        [ReserveUsage(reference_id=f"h{n}", user_id=f"u{n}", tokens=9, ttl_seconds=60) for n in range(1, 9)],
        [SettleUsage(reference_id="s1", user_id="u1", tokens=9, original_reference_id="h1")],
        [ReleaseUsage(reference_id="r1", user_id="u1", original_reference_id="h1")],  # has ended
        [RefundCredit(reference_id="f1", user_id="u1", tokens=1, original_reference_id="d1")],
        [RecordUsage(reference_id="m1", user_id="u2", meter="upload", quantity=1)],
        [
            PaymentSucceeded(
                reference_id="p1", user_id="u1", package_id="starter", amount_minor=499, currency="USD"
            )
        ],
        [
            PaymentRefunded(
                reference_id="pr1", user_id="u1", original_reference_id="p1", amount_minor=9, currency="USD"
            )
        ],
    ]
    before = scans(postgres_engine)
    codes = [outcome_codes(applied(postgres_engine, catalog, *batch)) for batch in batches]
    after = scans(postgres_engine)
    assert codes == [
        ["tokens_deducted"] * 100,
        ["tokens_reserved"] * 8,
        ["hold_settled"],
        ["hold_closed"],
        ["tokens_refunded"],
        ["usage_recorded"],
        ["tokens_purchased"],
        ["payment_refunded"],
    ]
    scanned = {name for name in after if after[name] != before[name]}
    assert scanned <= {"id_counters", "catalogs"}  # tables of a few rows


#: Enough rows that a scan would be chosen only where there is no way around it. Of one user account and
#: operation have one number.
_MANY_ACCOUNTS = (
    "INSERT INTO erased_ids (digest) SELECT sha256(n::text::bytea)::text FROM generate_series(1, 8000) n",
    """
    INSERT INTO accounts (account_id, slot, user_id, tier, balance, sequence, allocated, lot_count, anchor,
        granted_until, opened_at, updated_at)
    SELECT n, get_byte(sha256(convert_to('u' || n, 'UTF8')), 0) >> 2, 'u' || n, 'pro', 100, 1, 100, 1, now(),
        now() + interval '1 month', now(), now()
    FROM generate_series(1, 8000) n
    """,
    """
    INSERT INTO operations (operation_id, slot, reference_id, type, user_id, attempt, content, status, code,
        amount, balance_before, balance_after, first_entry, recorded_at)
    SELECT account_id, slot, 'o' || account_id,
        CASE account_id % 3 WHEN 0 THEN 1 WHEN 1 THEN 4 ELSE 20 END, user_id, 1, '{}', 1, 1,
        100, 0, 100, 1, now()
    FROM accounts
    """,
    """
    INSERT INTO lots (account_id, slot, number, operation_id, source, granted, remaining, is_open, priority,
        effective_at)
    SELECT account_id, slot, 1, account_id, 'allocation', 100, 100, true, 10, now() FROM accounts
    """,
    """
    INSERT INTO entries (account_id, slot, sequence, operation_id, counter, amount, balance_after, lot,
        occurred_at, recorded_at, is_due)
    SELECT account_id, slot, 1, account_id, 'A', 100, 100, 1, now(), now(), false FROM accounts
    """,
    """
    INSERT INTO holds (operation_id, slot, account_id, reference_id, amount, state, opened_at, expires_at,
        closed_at, closed_by)
    SELECT operation_id, slot, operation_id, reference_id, 1, 'expired', now(), now(), now(), operation_id
    FROM operations
    """,
    """
    INSERT INTO hold_parts (operation_id, slot, place, account_id, lot, amount)
    SELECT operation_id, slot, 0, account_id, 1, 1 FROM holds
    """,
    """
    INSERT INTO usage_refunds (operation_id, slot, original_id, account_id, tokens, recorded_at)
    SELECT operation_id, slot, operation_id, operation_id, 1, now() FROM operations
    """,
    """
    INSERT INTO payments (operation_id, slot, reference_id, account_id, package_id, amount_minor, currency,
        base_tokens, bonus_tokens, recorded_at)
    SELECT operation_id, slot, reference_id, operation_id, 'x', 1, 'USD', 1, 0, now() FROM operations
    """,
    """
    INSERT INTO payment_names (name, version, named_at, payment_reference, user_id)
    SELECT reference_id, 1, now(), reference_id, user_id FROM operations
    """,
    """
    INSERT INTO payment_events (operation_id, slot, reference_id, account_id, payment_reference, happened,
        recorded_at)
    SELECT operation_id, slot, reference_id, operation_id, reference_id, 'failed', now() FROM operations
    """,
    """
    INSERT INTO quotas (account_id, slot, meter, period_start, used, sequence)
    SELECT account_id, slot, 'free_upload', '2020-01-01', 1, 1 FROM accounts
    """,
    "INSERT INTO id_counters VALUES (64, 8001) ON CONFLICT (counter) DO UPDATE SET next_id = 8001",
    "ANALYZE",
)


def scans(engine: Engine) -> dict[str, int]:
    """Sequential scans so far, by table, as the server counts them."""
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        connection.commit()
        rows = connection.execute(text("SELECT relname, seq_scan FROM pg_stat_user_tables"))
        return {row.relname: row.seq_scan for row in rows}


def verbs(statements: Sequence[str]) -> list[str]:
    """Verbs of the statements, of prepared ones too."""
    return [
        statement.removeprefix("EXECUTE ").replace(" ", "_").split("_")[0].lower() for statement in statements
    ]


@contextmanager
def counted_statements(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not (statement.startswith(("BEGIN", "PREPARE")) or statement.endswith("LIMIT 0")):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


# -- the database holds even if Python is wrong -----------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A ledger with something in every append-only table; whatever is tried on it is refused."""
    with scratch_engine(request, tmp_path_factory) as engine:
        fill(engine)
        yield engine


@contextmanager
def scratch_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    if request.param == "sqlite":
        engine = ledger_engine(f"sqlite:///{tmp_path_factory.mktemp('filled') / 'ledger.sqlite3'}")
        migrate(engine)
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("postgres_template")
    name = f"filled_{uuid4().hex[:12]}"
    server.databases.create_database(name, template=template)
    engine = ledger_engine(server.address.url(name))
    yield engine
    engine.dispose()
    server.databases.drop_database(name)


def fill(engine: Engine) -> None:
    applied(
        engine,
        load_catalog(),
        OpenAccount(reference_id="o", user_id="u", tier="free"),
        FreeUpload(reference_id="f", user_id="u", bytes=10),
        PaymentSucceeded(
            reference_id="p", user_id="u", package_id="starter", amount_minor=499, currency="USD"
        ),
        DeductUsage(reference_id="d", user_id="u", tokens=10),
        DeductUsage(reference_id="poor", user_id="u", tokens=10**9),
        DeductUsage(reference_id="poor", user_id="u", tokens=10**8, attempt=2),
    )


APPEND_ONLY = [entries, quota_entries, payments, superseded_outcomes]


@pytest.mark.parametrize("table", APPEND_ONLY, ids=lambda table: table.name)
def test_history_can_not_be_rewritten(filled: Engine, table: Any) -> None:
    column = table.c.recorded_at
    with pytest.raises(DBAPIError, match="append-only"), filled.begin() as connection:
        connection.execute(update(table).values({column: NOW}))
    with pytest.raises(DBAPIError, match="append-only"), filled.begin() as connection:
        connection.execute(table.delete())


@pytest.mark.parametrize("table", [*APPEND_ONLY, operations], ids=lambda table: table.name)
def test_history_can_not_be_truncated(postgres_engine: Engine, table: Any) -> None:
    with pytest.raises(DBAPIError, match="append-only"), postgres_engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {table.name} CASCADE"))


@pytest.mark.parametrize("reference", ["d", "poor"])
def test_an_outcome_can_not_be_changed_or_deleted(filled: Engine, reference: str) -> None:
    mine = operations.c.reference_id == reference
    with pytest.raises(DBAPIError, match="append-only"), filled.begin() as connection:
        connection.execute(update(operations).where(mine).values(amount=1, status="applied"))
    with pytest.raises(DBAPIError, match="append-only"), filled.begin() as connection:
        connection.execute(operations.delete().where(mine))


def entry(connection: Connection, **changes: Any) -> dict[str, Any]:
    (operation,) = connection.execute(select(operations).where(operations.c.reference_id == "d"))
    (account,) = connection.execute(select(accounts))
    row = {
        "account_id": account.account_id,
        "slot": account.slot,
        "sequence": 5,
        "operation_id": operation.operation_id,
        "counter": "usage",
        "amount": -10,
        "balance_after": 90,
        "lot": 1,
        "occurred_at": NOW,
        "recorded_at": NOW,
        "is_due": False,
    }
    return row | changes


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount": 0}, r"amount_not_zero|counter_gives_the_sign"),
        ({"amount": 10}, "counter_gives_the_sign"),
        ({"counter": "bonus"}, "counter_gives_the_sign"),
        ({"lot": None}, "counter_gives_the_sign"),  # usage never makes a debt
        ({"counter": "expiry", "lot": None}, "counter_gives_the_sign"),
        ({"counter": "X"}, "counter_gives_the_sign"),
        ({"sequence": 0}, "sequence_from_one"),
        ({"sequence": 1}, "entries"),
        ({"account_id": 99}, r"(?i)foreign key"),
        ({"operation_id": 99}, "(?i)foreign key"),
        ({"slot": 63}, "(?i)foreign key"),
    ],
    ids=str,
)
def test_an_entry_that_does_not_add_up_is_refused(
    filled: Engine, changes: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(DBAPIError, match=constraint), filled.begin() as connection:
        connection.execute(insert(entries), entry(connection, **changes))


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("balance = -1, adjusted = -1 - balance", "held_is_covered|balance_is_its_sums"),
        ("balance = balance - 40000, used = used + 40000, held = 30000", "held_is_covered"),
        ("balance = balance + 1", "balance_is_its_sums"),
        ("used = used - 1", "balance_is_its_sums"),
        ("used = -1, balance = balance + used + 1", "sums_not_negative"),
        ("sequence = -1", "numbers_not_negative"),
        ("debt = -1", "sums_not_negative"),
    ],
)
def test_a_balance_that_is_not_its_sums_is_refused(filled: Engine, change: str, constraint: str) -> None:
    with pytest.raises(DBAPIError, match=constraint), filled.begin() as connection:
        connection.execute(text(f"UPDATE accounts SET {change}"))  # noqa: S608 - the test's own


def test_a_second_outcome_for_a_reference_is_refused(filled: Engine) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)unique"), filled.begin() as connection:
        copy_operation(connection, "d")


def copy_operation(connection: Connection, reference: str) -> None:
    names = ", ".join(c.name for c in operations.c if c.name != "operation_id")
    copied = f"SELECT operation_id + 1000, {names} FROM operations WHERE reference_id = :r"  # noqa: S608 - names of the table
    connection.execute(
        text(f"INSERT INTO operations (operation_id, {names}) {copied}"),
        {"r": reference},
    )
