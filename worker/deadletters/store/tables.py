"""Tables of dead letters, their groups and replays, and of the activity log.

They are in the ledger's database and its metadata, so that one migration brings all of it up to date. The
history of a dead letter, its original body and the activity log can't be changed or deleted: triggers of the
migrations refuse it, on both dialects.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from worker.ledger.tables import JsonObject, RowId, UtcDateTime, metadata

_WAITING = "status IN ('parked', 'replaying')"
_APPLIED = "applied_at IS NOT NULL"

#: Dead letters, drained from their queue so that they can be read without disturbing it. The original message
#: is never changed: an edit is kept beside it. Tokens and times are null where unknown. Of a dead letter of
#: unknown origin queue, exchange, routing key and worker version are empty, and its tries and schema version
#: stand for nothing.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("number", RowId, Identity(always=True), primary_key=True),
    Column("letter_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("field", Text),
    Column("traceback", Text),
    Column("queue", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_failed_at", UtcDateTime),
    Column("last_failed_at", UtcDateTime),
    Column("type", Text),
    Column("reference_id", Text),
    Column("user_id", Text),
    Column("worker_version", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("properties", JsonObject, nullable=False),
    Column("note", Text),
    Column("fingerprint", Text, nullable=False),
    Column("tokens_at_stake", BigInteger),
    Column("replay_id", BigInteger),
    Column("edited_body", LargeBinary),
    # Set while it is resolved because the ledger had its operation, and no operator has confirmed that.
    Column("applied_at", UtcDateTime),
    UniqueConstraint("letter_id"),
    # A page of a list is a few rows of one of these, newest first.
    Index(None, "status", "number"),
    Index(None, "fingerprint", "status", "number"),
    Index(None, "reason", "status", "number"),
    Index(None, "type", "status", "number"),
    Index(None, "user_id", "status", "number"),
    Index(None, "reference_id"),
    Index(None, "last_failed_at", "number"),
    # The users that wait in a group are counted from user to user.
    Index(
        "ix_dead_letters_waiting_users",
        "fingerprint",
        "user_id",
        postgresql_where=text(_WAITING),
        sqlite_where=text(_WAITING),
    ),
    Index(
        "ix_dead_letters_applied",
        "fingerprint",
        "number",
        postgresql_where=text(_APPLIED),
        sqlite_where=text(_APPLIED),
    ),
    CheckConstraint("status IN ('parked', 'replaying', 'resolved', 'discarded')", name="status_known"),
    CheckConstraint("status <> 'replaying' OR replay_id IS NOT NULL", name="replaying_has_a_replay"),
    CheckConstraint("attempts >= 1", name="attempts_from_one"),
    CheckConstraint("tokens_at_stake >= 0", name="tokens_not_negative"),
)

_FAILURE = "kind IN ('failed', 'failed_again')"

#: History of each dead letter. A failure is recorded once, however often its message was drained.
dead_letter_events = Table(
    "dead_letter_events",
    metadata,
    Column("event_id", RowId, Identity(always=True), primary_key=True),
    Column("number", BigInteger, ForeignKey(dead_letters.c.number), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text),
    Column("text", Text),
    Column("replay_id", BigInteger),
    Column("detail", JsonObject),
    Index(None, "number", "event_id"),
    Index(
        "uq_dead_letter_events_failure",
        "number",
        "at",
        unique=True,
        postgresql_where=text(_FAILURE),
        sqlite_where=text(_FAILURE),
    ),
    CheckConstraint(
        "kind IN ('failed', 'failed_again', 'edited', 'replayed', 'resolved', 'refused', 'returned',"
        " 'discarded', 'restored', 'noted', 'imported')",
        name="kind_known",
    ),
)

_OF_SET = "set_edit_id IS NOT NULL"

#: Every edit of a body: the body before, and after. ``set_edit_id`` names the edit of a set that it is of.
dead_letter_edits = Table(
    "dead_letter_edits",
    metadata,
    Column("edit_id", RowId, Identity(always=True), primary_key=True),
    Column("number", BigInteger, ForeignKey(dead_letters.c.number), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("before", LargeBinary, nullable=False),
    Column("after", LargeBinary, nullable=False),
    Column("set_edit_id", BigInteger),
    Index(None, "number", "edit_id"),
    Index(
        "ix_dead_letter_edits_set",
        "set_edit_id",
        "number",
        postgresql_where=text(_OF_SET),
        sqlite_where=text(_OF_SET),
    ),
)

#: Edits of many dead letters at once, each of which has its own edit. ``undoes`` names the one taken back.
dead_letter_set_edits = Table(
    "dead_letter_set_edits",
    metadata,
    Column("set_edit_id", RowId, Identity(always=True), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("changes", JsonObject, nullable=False),
    Column("undoes", BigInteger),
)

_BY_LATEST = "ix_dead_letter_groups_last_failed_at_fingerprint"

#: One row for each fingerprint: sums of the dead letters that share it, which can always be computed again
#: from them. Counts are dead letters; tokens are those of waiting ones, where known, and ``tokens_unknown``
#: counts the others.
dead_letter_groups = Table(
    "dead_letter_groups",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("type", Text),
    Column("field", Text),
    Column("message", Text, nullable=False),
    Column("sample", BigInteger, nullable=False),
    Column("parked", BigInteger, nullable=False),
    Column("replaying", BigInteger, nullable=False),
    Column("resolved", BigInteger, nullable=False),
    Column("discarded", BigInteger, nullable=False),
    Column("waiting", BigInteger, nullable=False),
    # Many dead letters may each ask for the most that one may ask for.
    Column("tokens_at_stake", Numeric(38, 0).with_variant(BigInteger(), "sqlite"), nullable=False),
    Column("tokens_unknown", BigInteger, nullable=False),
    Column("first_failed_at", UtcDateTime),
    Column("last_failed_at", UtcDateTime),
    # Read backwards it ends with unknown times, which SQLite sorts so by itself.
    Index(_BY_LATEST, text("last_failed_at NULLS FIRST"), "fingerprint").ddl_if(dialect="postgresql"),
    Index(_BY_LATEST, "last_failed_at", "fingerprint").ddl_if(dialect="sqlite"),
    Index(None, "waiting", "fingerprint"),
    Index(None, "tokens_at_stake", "fingerprint"),
    CheckConstraint(
        "parked >= 0 AND replaying >= 0 AND resolved >= 0 AND discarded >= 0", name="counts_not_negative"
    ),
    CheckConstraint("waiting = parked + replaying", name="waiting_is_its_sum"),
    CheckConstraint("tokens_at_stake >= 0 AND tokens_unknown >= 0", name="tokens_not_negative"),
)

#: A replay: a set of dead letters that is sent again, frozen when it was asked for. ``counts`` are its items
#: by their states; the process that runs it holds the lease until ``leased_until``. ``stop_on`` are its
#: limits by state; it runs since ``running_since``, and ran for ``ran_ms`` before.
replays = Table(
    "replays",
    metadata,
    Column("replay_id", RowId, Identity(always=True), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("rate", Float),
    Column("steps", JsonObject, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason", Text),
    Column("leased_by", Text),
    Column("leased_until", UtcDateTime),
    Column("total", BigInteger, nullable=False),
    Column("counts", JsonObject, nullable=False),
    Column("stop_on", JsonObject),
    Column("running_since", UtcDateTime),
    Column("ran_ms", BigInteger),
    CheckConstraint("state IN ('running', 'paused', 'stopped', 'finished', 'cancelled')", name="state_known"),
    CheckConstraint("rate > 0", name="rate_positive"),
)

#: The dead letters of a replay, in the order in which they are sent.
replay_items = Table(
    "replay_items",
    metadata,
    Column("replay_id", BigInteger, ForeignKey(replays.c.replay_id), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("number", BigInteger, ForeignKey(dead_letters.c.number), nullable=False),
    Column("state", Text, nullable=False),
    Column("detail", Text),
    Column("was_known", Boolean, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("settled_at", UtcDateTime),
    PrimaryKeyConstraint("replay_id", "position"),
    UniqueConstraint("replay_id", "number"),
    Index(None, "replay_id", "state", "position"),
    Index(None, "number"),
    CheckConstraint(
        "state IN ('waiting', 'sending', 'sent', 'applied', 'rejected', 'duplicate', 'delivered', 'conflict',"
        " 'failed_again', 'unroutable', 'skipped')",
        name="state_known",
    ),
)

#: Activity log: what operators did, written in the transaction in which they did it.
audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_id", RowId, Identity(always=True), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text),
    Column("detail", JsonObject),
    # Of the process that an operator called; unknown for the console.
    Column("os_user", Text),
    Column("host", Text),
    Index(None, "actor", "entry_id"),
    Index(None, "action", "entry_id"),
    Index(None, "subject", "entry_id"),
)
