"""Dead letters: groups, histories, edits, replays; the activity log; users by their beginnings.

A dead letter that had been replayed is ``resolved`` where the ledger has an outcome of its reference, of the
same type and user, and ``parked`` where it has none: that it was sent says nothing about its outcome, and to
look at one more dead letter, or to send it once more, does no harm.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_SUM = sa.Numeric(38, 0).with_variant(sa.BigInteger(), "sqlite")

_WAITING = "status IN ('parked', 'replaying')"
_FAILURE = "kind IN ('failed', 'failed_again')"
_STATUS_KNOWN = "status IN ('parked', 'replaying', 'resolved', 'discarded')"

_APPEND_ONLY = ("dead_letter_events", "dead_letter_edits", "audit_log")
_CHUNK = 500


def upgrade() -> None:
    """Add the columns and the tables, and group what is there."""
    if _on_postgresql():
        _alter_on_postgresql()
    else:
        _rebuild_on_sqlite()
    for name in ("reason", "type", "reference_id", "user_id"):  # no index takes what only a forger says
        op.execute(f"UPDATE dead_letters SET {name} = substr({name}, 1, 500) WHERE length({name}) > 500")  # noqa: S608 - names of columns
    _index_dead_letters()
    _create_histories()
    _create_groups()
    _create_replays()
    _create_audit_log()
    op.execute(
        "INSERT INTO dead_letter_events (number, at, kind)"
        " SELECT number, first_failed_at, 'failed' FROM dead_letters"
        " UNION ALL SELECT number, last_failed_at, 'failed_again' FROM dead_letters"
        " WHERE last_failed_at > first_failed_at ORDER BY 1, 2"
    )
    _group()
    if _on_postgresql():
        op.execute('CREATE INDEX ix_accounts_user_id_c ON accounts (user_id COLLATE "C")')
        _guard_postgresql()
    else:
        _guard_sqlite()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


# -- the dead letters -------------------------------------------------------------------------------------

_REPLAYED_NOW = (
    "CASE WHEN status <> 'replayed' THEN status WHEN EXISTS ("
    "SELECT 1 FROM operations WHERE operations.reference_id = dead_letters.reference_id"
    " AND operations.type = dead_letters.type AND operations.user_id = dead_letters.user_id"
    ") THEN 'resolved' ELSE 'parked' END"
)


def _new_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("fingerprint", sa.Text()),
        sa.Column("tokens_at_stake", sa.BigInteger()),
        sa.Column("replay_id", sa.BigInteger()),
        sa.Column("edited_body", sa.LargeBinary()),
    ]


def _alter_on_postgresql() -> None:
    for column in _new_columns():
        op.add_column("dead_letters", column)
    op.drop_constraint("ck_dead_letters_status_known", "dead_letters")
    op.execute(f"UPDATE dead_letters SET status = {_REPLAYED_NOW}")  # noqa: S608 - a constant
    _fill()
    op.alter_column("dead_letters", "fingerprint", nullable=False)
    for name, condition in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_dead_letters_{name}"), "dead_letters", condition)


_CHECKS = {
    "status_known": _STATUS_KNOWN,
    "replaying_has_a_replay": "status <> 'replaying' OR replay_id IS NOT NULL",
    "tokens_not_negative": "tokens_at_stake >= 0",
}
_OLD_COLUMNS = (
    "number, letter_id, status, reason, message, field, traceback, queue, exchange, routing_key, attempts,"
    " first_failed_at, last_failed_at, type, reference_id, user_id, worker_version, schema_version, body,"
    " properties, note"
)


def _rebuild_on_sqlite() -> None:
    """SQLite changes no check of a table: the rows move to another one."""
    op.rename_table("dead_letters", "dead_letters_before")
    op.create_table(
        "dead_letters",
        sa.Column("number", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("letter_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("field", sa.Text()),
        sa.Column("traceback", sa.Text()),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failed_at", _TIME, nullable=False),
        sa.Column("last_failed_at", _TIME, nullable=False),
        sa.Column("type", sa.Text()),
        sa.Column("reference_id", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("worker_version", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("properties", _JSON, nullable=False),
        sa.Column("note", sa.Text()),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        *_new_columns()[1:],
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_dead_letters_{name}"))
            for name, condition in _CHECKS.items()
        ),
        sa.CheckConstraint("attempts >= 1", name=op.f("ck_dead_letters_attempts_from_one")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("letter_id", name=op.f("uq_dead_letters_letter_id")),
    )
    status = _REPLAYED_NOW.replace("dead_letters.", "dead_letters_before.")
    selected = _OLD_COLUMNS.replace(" status,", f" {status},")
    op.execute(
        f"INSERT INTO dead_letters ({_OLD_COLUMNS}, fingerprint)"  # noqa: S608 - constants
        f" SELECT {selected}, '' FROM dead_letters_before"
    )
    op.drop_table("dead_letters_before")
    _fill()


def _index_dead_letters() -> None:
    for columns in (
        ("status", "number"),
        ("fingerprint", "status", "number"),
        ("reason", "status", "number"),
        ("type", "status", "number"),
        ("user_id", "status", "number"),
        ("reference_id",),
        ("last_failed_at", "number"),
    ):
        op.create_index(op.f("ix_dead_letters_" + "_".join(columns)), "dead_letters", list(columns))
    op.create_index(
        op.f("ix_dead_letters_waiting_users"),
        "dead_letters",
        ["fingerprint", "user_id"],
        postgresql_where=sa.text(_WAITING),
        sqlite_where=sa.text(_WAITING),
    )


_DEAD_LETTERS = sa.table(
    "dead_letters",
    *(
        sa.column(name, kind)
        for name, kind in (
            ("number", sa.BigInteger()),
            ("reason", sa.Text()),
            ("type", sa.Text()),
            ("field", sa.Text()),
            ("traceback", sa.Text()),
            ("body", sa.LargeBinary()),
            ("fingerprint", sa.Text()),
            ("tokens_at_stake", sa.BigInteger()),
        )
    ),
)


def _fill() -> None:
    """Set the fingerprint of every dead letter, and the tokens affected."""
    bind = op.get_bind()
    filling = (
        sa.update(_DEAD_LETTERS)
        .where(_DEAD_LETTERS.c.number == sa.bindparam("of"))
        .values(fingerprint=sa.bindparam("print"), tokens_at_stake=sa.bindparam("tokens"))
    )
    for page in _pages(bind):
        bind.execute(
            filling,
            [
                {
                    "of": row.number,
                    "print": _fingerprint(row.reason, row.type, row.field, row.traceback),
                    "tokens": _tokens(bytes(row.body)),
                }
                for row in page
            ],
        )


def _pages(bind: sa.Connection) -> Iterator[list[Any]]:
    last = 0
    while page := list(
        bind.execute(
            sa.select(_DEAD_LETTERS)
            .where(_DEAD_LETTERS.c.number > last)
            .order_by(_DEAD_LETTERS.c.number)
            .limit(_CHUNK)
        )
    ):
        yield page
        last = page[-1].number


# As worker.deadletters.fingerprints had it when this was written: later dead letters join these groups.

_FRAME = re.compile(r'^  File "(?P<path>[^"\n]*)", line \d+, in (?P<name>\S+)', re.MULTILINE)
# From the last folder of such a name on: the folder of an installation may have the same name.
_OURS = re.compile(r"(?:^|.*[/\\])((?:worker|schemas)[/\\](?!.*site-packages[/\\]).*)$")
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def _fingerprint(reason: str, type_: str | None, field: str | None, traceback: str | None) -> str:
    if traceback:
        frames = list(_FRAME.finditer(traceback))
        ours = [
            f"{path[1]}:{frame['name']}".replace("\\", "/")
            for frame in frames
            if (path := _OURS.search(frame["path"])) is not None
        ]
        raised = _EXCEPTION.search(traceback, frames[-1].end() if frames else 0)
        place = [raised[1] if raised else "", *ours[-5:]]
    else:
        place = [re.sub(r"\d+", "#", (field or "")[:200])]
    text = "\0".join([reason, type_ or "", *place])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _tokens(body: bytes) -> int | None:
    """Return the tokens of a single command; batches and payments wait until they are looked at again."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    tokens = message.get("tokens") if isinstance(message, dict) else None
    return abs(tokens) if type(tokens) is int and abs(tokens) <= 10**15 else None


# -- their histories --------------------------------------------------------------------------------------


def _create_histories() -> None:
    op.create_table(
        "dead_letter_events",
        sa.Column("event_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text()),
        sa.Column("text", sa.Text()),
        sa.Column("replay_id", sa.BigInteger()),
        sa.Column("detail", _JSON),
        sa.CheckConstraint(
            "kind IN ('failed', 'failed_again', 'edited', 'replayed', 'resolved', 'refused', 'returned',"
            " 'discarded', 'restored', 'noted', 'imported')",
            name=op.f("ck_dead_letter_events_kind_known"),
        ),
        sa.ForeignKeyConstraint(
            ["number"], ["dead_letters.number"], name=op.f("fk_dead_letter_events_number")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_dead_letter_events")),
    )
    op.create_index(
        op.f("ix_dead_letter_events_number_event_id"), "dead_letter_events", ["number", "event_id"]
    )
    op.create_index(
        op.f("uq_dead_letter_events_failure"),
        "dead_letter_events",
        ["number", "at"],
        unique=True,
        postgresql_where=sa.text(_FAILURE),
        sqlite_where=sa.text(_FAILURE),
    )
    op.create_table(
        "dead_letter_edits",
        sa.Column("edit_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=False),
        sa.Column("after", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["dead_letters.number"], name=op.f("fk_dead_letter_edits_number")
        ),
        sa.PrimaryKeyConstraint("edit_id", name=op.f("pk_dead_letter_edits")),
    )
    op.create_index(op.f("ix_dead_letter_edits_number_edit_id"), "dead_letter_edits", ["number", "edit_id"])


# -- groups -----------------------------------------------------------------------------------------------


def _create_groups() -> None:
    op.create_table(
        "dead_letter_groups",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("type", sa.Text()),
        sa.Column("field", sa.Text()),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("sample", sa.BigInteger(), nullable=False),
        sa.Column("parked", sa.BigInteger(), nullable=False),
        sa.Column("replaying", sa.BigInteger(), nullable=False),
        sa.Column("resolved", sa.BigInteger(), nullable=False),
        sa.Column("discarded", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.BigInteger(), nullable=False),
        sa.Column("tokens_at_stake", _SUM, nullable=False),
        sa.Column("tokens_unknown", sa.BigInteger(), nullable=False),
        sa.Column("first_failed_at", _TIME, nullable=False),
        sa.Column("last_failed_at", _TIME, nullable=False),
        sa.CheckConstraint(
            "parked >= 0 AND replaying >= 0 AND resolved >= 0 AND discarded >= 0",
            name=op.f("ck_dead_letter_groups_counts_not_negative"),
        ),
        sa.CheckConstraint(
            "waiting = parked + replaying", name=op.f("ck_dead_letter_groups_waiting_is_its_sum")
        ),
        sa.CheckConstraint(
            "tokens_at_stake >= 0 AND tokens_unknown >= 0",
            name=op.f("ck_dead_letter_groups_tokens_not_negative"),
        ),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_dead_letter_groups")),
    )
    for column in ("last_failed_at", "waiting", "tokens_at_stake"):
        op.create_index(
            op.f(f"ix_dead_letter_groups_{column}_fingerprint"), "dead_letter_groups", [column, "fingerprint"]
        )


def _group() -> None:
    op.execute(
        "INSERT INTO dead_letter_groups (fingerprint,"  # noqa: S608 - constants
        " reason, type, field, message, sample, parked, replaying, resolved, discarded, waiting,"
        " tokens_at_stake, tokens_unknown, first_failed_at, last_failed_at)"
        " SELECT g.fingerprint, l.reason, l.type, l.field, l.message, l.number, g.parked, 0, g.resolved,"
        " g.discarded, g.parked, g.tokens, g.unknown, g.first_failed_at, g.last_failed_at"
        " FROM (SELECT fingerprint, max(number) AS sample,"
        " sum(CASE WHEN status = 'parked' THEN 1 ELSE 0 END) AS parked,"
        " sum(CASE WHEN status = 'resolved' THEN 1 ELSE 0 END) AS resolved,"
        " sum(CASE WHEN status = 'discarded' THEN 1 ELSE 0 END) AS discarded,"
        f" coalesce(sum(CASE WHEN {_WAITING} THEN tokens_at_stake END), 0) AS tokens,"
        f" sum(CASE WHEN {_WAITING} AND tokens_at_stake IS NULL THEN 1 ELSE 0 END) AS unknown,"
        " min(first_failed_at) AS first_failed_at, max(last_failed_at) AS last_failed_at"
        " FROM dead_letters GROUP BY fingerprint) AS g JOIN dead_letters AS l ON l.number = g.sample"
    )


# -- replays, and what operators did ----------------------------------------------------------------------


def _create_replays() -> None:
    op.create_table(
        "replays",
        sa.Column("replay_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rate", sa.Float()),
        sa.Column("steps", _JSON, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text()),
        sa.Column("leased_by", sa.Text()),
        sa.Column("leased_until", _TIME),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("counts", _JSON, nullable=False),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'stopped', 'finished', 'cancelled')",
            name=op.f("ck_replays_state_known"),
        ),
        sa.CheckConstraint("rate > 0", name=op.f("ck_replays_rate_positive")),
        sa.PrimaryKeyConstraint("replay_id", name=op.f("pk_replays")),
    )
    op.create_table(
        "replay_items",
        sa.Column("replay_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("was_known", sa.Boolean(), nullable=False),
        sa.Column("sent_at", _TIME),
        sa.Column("settled_at", _TIME),
        sa.CheckConstraint(
            "state IN ('waiting', 'sending', 'sent', 'applied', 'rejected', 'duplicate', 'delivered',"
            " 'conflict', 'failed_again', 'unroutable', 'skipped')",
            name=op.f("ck_replay_items_state_known"),
        ),
        sa.ForeignKeyConstraint(["replay_id"], ["replays.replay_id"], name=op.f("fk_replay_items_replay_id")),
        sa.ForeignKeyConstraint(["number"], ["dead_letters.number"], name=op.f("fk_replay_items_number")),
        sa.PrimaryKeyConstraint("replay_id", "position", name=op.f("pk_replay_items")),
        sa.UniqueConstraint("replay_id", "number", name=op.f("uq_replay_items_replay_id_number")),
    )
    op.create_index(
        op.f("ix_replay_items_replay_id_state_position"), "replay_items", ["replay_id", "state", "position"]
    )
    op.create_index(op.f("ix_replay_items_number"), "replay_items", ["number"])


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("entry_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("detail", _JSON),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_audit_log")),
    )
    for column in ("actor", "action", "subject"):
        op.create_index(op.f(f"ix_audit_log_{column}_entry_id"), "audit_log", [column, "entry_id"])


# -- guards -----------------------------------------------------------------------------------------------


def _guard_postgresql() -> None:
    refuse = "EXECUTE FUNCTION ledger_refuses()"
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}"
        )
    op.execute(
        "CREATE TRIGGER dead_letters_as_they_came BEFORE UPDATE OF number, letter_id, body, properties"
        f" ON dead_letters FOR EACH ROW {refuse}"
    )
    op.execute(f"CREATE TRIGGER dead_letters_not_deleted BEFORE DELETE ON dead_letters FOR EACH ROW {refuse}")
    for table in (*_APPEND_ONLY, "dead_letters"):
        op.execute(
            f"CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}"
        )


def _guard_sqlite() -> None:
    refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
    for table in _APPEND_ONLY:
        op.execute(f"CREATE TRIGGER {table}_not_updated BEFORE UPDATE ON {table} {refuse}")
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
    op.execute(
        "CREATE TRIGGER dead_letters_as_they_came BEFORE UPDATE OF number, letter_id, body, properties"
        f" ON dead_letters {refuse}"
    )
    op.execute(f"CREATE TRIGGER dead_letters_not_deleted BEFORE DELETE ON dead_letters {refuse}")
