"""Erasure of users, and purges of dead letters and of the activity log: the only ways past the guards.

Three functions with the rights of the tables' owner, which nobody may execute but who is given it. The guards
let the owner through within them alone: a setting that each function makes while it runs says so.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0021"
branch_labels = None
depends_on = None

#: Functions that are nobody's to execute but the role's for privacy.
GUARDED = (
    "erase_user(text, text, text)",
    "purge_dead_letters(bigint[], boolean)",
    "purge_activity(bigint[])",
)

_OWNED = """
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT
"""

# Not in the function's head: only a superuser may name a setting there that no extension has defined.
_BEGIN, _END = (f"PERFORM set_config('billing.erasing', '{value}', true);" for value in ("on", "off"))

_REFUSES = """
CREATE OR REPLACE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' AND current_setting('billing.erasing', true) = 'on'
        AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID)
    THEN
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on % is refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""

_REFUSES_ALWAYS = """
CREATE OR REPLACE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""

# A long id is found within longer words, a short one or a number only as a word of its own: the user 7 is not
# in the reference order-17.
_TEXTS = (
    r"""
CREATE FUNCTION erasure_pattern(id text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN char_length(id) >= 8 AND id !~ '^[0-9]+$' THEN escaped
        ELSE '(?<![[:alnum:]])' || escaped || '(?![[:alnum:]])' END
    FROM (SELECT regexp_replace(id, '([^[:alnum:]])', '\\\1', 'g') AS escaped) AS its
$$
""",
    """
CREATE FUNCTION has_id(value text, id text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT strpos(value, id) > 0 AND value ~ erasure_pattern(id)
$$
""",
    """
CREATE FUNCTION without_id(value text, id text, pseudonym text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN strpos(value, id) > 0
        THEN regexp_replace(value, erasure_pattern(id), pseudonym, 'g') ELSE value END
$$
""",
    """
CREATE FUNCTION without_id(value jsonb, id text, pseudonym text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'string' THEN to_jsonb(without_id(value #>> '{}', id, pseudonym))
        WHEN 'array' THEN (
            SELECT coalesce(jsonb_agg(without_id(item, id, pseudonym) ORDER BY place), '[]')
            FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, place))
        WHEN 'object' THEN (
            SELECT coalesce(jsonb_object_agg(
                without_id(name, id, pseudonym), without_id(item, id, pseudonym)), '{}')
            FROM jsonb_each(value) AS items (name, item))
        ELSE value
    END;
END $$
""",
)

# 1. What is the user's is found without a lock: that takes a reading of all operations.
# 2. The account is locked as a batch does, and what came since is added: from here on it is short.
# 3. Commands of the user, and events of payments that had the id in their names, are known by their digests.
# 4. Rows of the user: the id becomes the pseudonym, also within references; free texts go.
# 5. Rows of others that name it, where the id is long enough to be told from a word.
_ERASE_USER = """
CREATE FUNCTION erase_user(erased text, pseudonym text, actor text) RETURNS jsonb OWNED AS $$
DECLARE
    of_slot CONSTANT smallint := get_byte(sha256(convert_to(CASE
        WHEN octet_length(erased) = char_length(erased) THEN erased
        ELSE normalize(erased, NFC) END, 'UTF8')), 0) >> 2;
    in_json CONSTANT text := substr(to_jsonb(erased)::text, 2, char_length(to_jsonb(erased)::text) - 2);
    in_bytes CONSTANT bytea := convert_to(in_json, 'UTF8');
    is_distinct CONSTANT boolean := char_length(erased) >= 8;
    nothing CONSTANT bytea := convert_to('erased', 'UTF8');
    began CONSTANT timestamptz := clock_timestamp();
    account bigint;
    own bigint[];
    others bigint[];
    theirs bigint;
    kept text[];
    letters bigint[];
    rows bigint;
    counts jsonb := '{}';
    beside record;
BEGIN
    ON_BEGIN
    SELECT array_agg(operation_id) FILTER (WHERE user_id = erased),
        array_agg(operation_id) FILTER (WHERE is_distinct AND user_id <> erased
            AND (strpos(metadata::text, in_json) > 0 OR strpos(description, erased) > 0)),
        count(*) FILTER (WHERE is_distinct AND user_id <> erased AND has_id(reference_id, erased))
    INTO own, others, theirs FROM operations;

    SELECT account_id INTO account FROM accounts WHERE slot = of_slot AND user_id = erased FOR UPDATE;
    own := coalesce(own, '{}') || ARRAY(
        SELECT operation_id FROM operations
        WHERE slot = of_slot AND user_id = erased AND recorded_at > began - interval '1 hour'
            AND operation_id <> ALL (coalesce(own, '{}')));
    -- Dead letters change under one lock, see worker/deadletters/store/transaction.py.
    PERFORM pg_advisory_xact_lock(7301989);

    letters := ARRAY(
        SELECT number FROM dead_letters
        WHERE user_id = erased OR (is_distinct AND (position(in_bytes IN body) > 0
            OR position(in_bytes IN edited_body) > 0 OR strpos(properties::text, in_json) > 0
            OR strpos(concat_ws(' ', reference_id, message, traceback, note), erased) > 0)));
    IF EXISTS (SELECT FROM dead_letters WHERE number = ANY (letters) AND status = 'replaying') THEN
        RAISE EXCEPTION 'a dead letter of the user is being replayed' USING ERRCODE = 'object_in_use';
    END IF;

    INSERT INTO erased_ids (digest)
    SELECT DISTINCT encode(sha256(convert_to('erased ' || name, 'UTF8')), 'hex')
    FROM (
        SELECT erased AS name
        UNION ALL SELECT reference_id FROM operations
            WHERE operation_id = ANY (own) AND (type BETWEEN 21 AND 27 OR type IN (63, 64))
                AND has_id(reference_id, erased)
        UNION ALL SELECT payment_names.name FROM payment_names
            WHERE user_id = erased AND has_id(payment_names.name, erased)
    ) AS names
    ON CONFLICT DO NOTHING;

    -- A reference that another user's operation has as well stays: it decides for that user.
    kept := ARRAY(
        SELECT mine.reference_id FROM operations AS mine JOIN operations AS other
            ON other.reference_id = mine.reference_id AND other.user_id <> erased
        WHERE mine.operation_id = ANY (own) AND has_id(mine.reference_id, erased));

    UPDATE accounts SET user_id = pseudonym WHERE slot = of_slot AND user_id = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('accounts', rows);

    UPDATE operations SET user_id = pseudonym,
        reference_id = CASE WHEN reference_id = ANY (kept) THEN reference_id
            ELSE without_id(reference_id, erased, pseudonym) END,
        content = CASE WHEN strpos(content, in_json) > 0
            THEN without_id(content::jsonb, erased, pseudonym)::text ELSE content END,
        detail = CASE WHEN type = 42 THEN
            jsonb_set(without_id(detail, erased, pseudonym), '{reason}', '"erased"', false)
            ELSE without_id(detail, erased, pseudonym) END,
        notices = without_id(notices, erased, pseudonym),
        metadata = NULL, description = NULL
    WHERE slot = of_slot AND operation_id = ANY (own);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('operations', rows);

    UPDATE superseded_outcomes SET user_id = pseudonym,
        reference_id = CASE WHEN reference_id = ANY (kept) THEN reference_id
            ELSE without_id(reference_id, erased, pseudonym) END,
        content = CASE WHEN strpos(content, in_json) > 0
            THEN without_id(content::jsonb, erased, pseudonym)::text ELSE content END,
        detail = CASE WHEN type = 42 THEN
            jsonb_set(without_id(detail, erased, pseudonym), '{reason}', '"erased"', false)
            ELSE without_id(detail, erased, pseudonym) END,
        notices = without_id(notices, erased, pseudonym),
        metadata = NULL, description = NULL
    WHERE slot = of_slot AND user_id = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('superseded_outcomes', rows);

    UPDATE holds SET reference_id = without_id(reference_id, erased, pseudonym)
    WHERE slot = of_slot AND account_id = account
        AND reference_id <> ALL (kept) AND has_id(reference_id, erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('holds', rows);

    UPDATE payments SET reference_id = without_id(reference_id, erased, pseudonym)
    WHERE slot = of_slot AND account_id = account
        AND reference_id <> ALL (kept) AND has_id(reference_id, erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payments', rows);

    UPDATE payment_events SET
        reference_id = CASE WHEN reference_id = ANY (kept) THEN reference_id
            ELSE without_id(reference_id, erased, pseudonym) END,
        payment_reference = CASE WHEN payment_reference = ANY (kept) THEN payment_reference
            ELSE without_id(payment_reference, erased, pseudonym) END,
        dispute_id = without_id(dispute_id, erased, pseudonym),
        refund_reference = CASE WHEN refund_reference = ANY (kept) THEN refund_reference
            ELSE without_id(refund_reference, erased, pseudonym) END
    WHERE slot = of_slot AND account_id = account
        AND has_id(concat_ws(' ', reference_id, payment_reference, dispute_id, refund_reference), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payment_events', rows);

    UPDATE payment_names SET user_id = pseudonym, version = version + 1,
        name = CASE WHEN name = ANY (kept) THEN name ELSE without_id(name, erased, pseudonym) END,
        payment_reference = CASE WHEN payment_reference = ANY (kept) THEN payment_reference
            ELSE without_id(payment_reference, erased, pseudonym) END,
        same_as = CASE WHEN same_as = ANY (kept) THEN same_as
            ELSE without_id(same_as, erased, pseudonym) END
    WHERE user_id = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payment_names', rows);

    UPDATE waiting_events SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        reference_id = CASE WHEN reference_id = ANY (kept) THEN reference_id
            ELSE without_id(reference_id, erased, pseudonym) END,
        name = CASE WHEN name = ANY (kept) THEN name ELSE without_id(name, erased, pseudonym) END,
        dispute_id = without_id(dispute_id, erased, pseudonym),
        refund_reference = without_id(refund_reference, erased, pseudonym)
    WHERE user_id = erased OR waiting_events.name IN (
        SELECT payment_names.name FROM payment_names WHERE payment_names.user_id = pseudonym);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('waiting_events', rows);

    UPDATE claims SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        taken_from = CASE WHEN taken_from = erased THEN pseudonym ELSE taken_from END,
        reference_id = CASE WHEN user_id <> erased OR reference_id = ANY (kept) THEN reference_id
            ELSE without_id(reference_id, erased, pseudonym) END
    WHERE (slot = of_slot AND user_id = erased) OR taken_from = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('claims', rows);

    -- Dead letters: nothing says what is in a body, so that it goes whole; what waited can't be sent again.
    UPDATE dead_letter_groups AS its SET
        parked = its.parked - gone.parked, waiting = its.waiting - gone.parked,
        discarded = its.discarded + gone.parked, tokens_at_stake = its.tokens_at_stake - gone.tokens,
        tokens_unknown = its.tokens_unknown - gone.unknown
    FROM (
        SELECT fingerprint, count(*) AS parked, coalesce(sum(tokens_at_stake), 0) AS tokens,
            count(*) FILTER (WHERE tokens_at_stake IS NULL) AS unknown
        FROM dead_letters WHERE number = ANY (letters) AND status = 'parked' GROUP BY fingerprint
    ) AS gone
    WHERE its.fingerprint = gone.fingerprint;
    UPDATE dead_letter_groups SET message = 'erased' WHERE sample = ANY (letters);
    INSERT INTO dead_letter_events (number, at, kind, actor, text)
        SELECT number, began, 'discarded', erase_user.actor, 'erased'
        FROM dead_letters WHERE number = ANY (letters) AND status = 'parked';
    UPDATE dead_letters SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        reference_id = without_id(reference_id, erased, pseudonym),
        letter_id = without_id(letter_id, erased, pseudonym),
        body = nothing, properties = '{}', message = 'erased', edited_body = NULL, traceback = NULL,
        note = NULL, status = CASE status WHEN 'parked' THEN 'discarded' ELSE status END
    WHERE number = ANY (letters) AND (body <> nothing OR user_id = erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('dead_letters', rows);
    UPDATE dead_letter_events SET text = 'erased', detail = NULL
    WHERE number = ANY (letters) AND (text <> 'erased' OR detail IS NOT NULL);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('dead_letter_events', rows);
    UPDATE dead_letter_edits SET before = nothing, after = nothing, reason = 'erased'
    WHERE number = ANY (letters);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('dead_letter_edits', rows);
    UPDATE replay_items SET detail = NULL WHERE number = ANY (letters) AND detail IS NOT NULL;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('replay_items', rows);

    UPDATE audit_log SET reason = CASE WHEN reason IS NULL THEN NULL ELSE 'erased' END,
        subject = without_id(subject, erased, pseudonym), detail = without_id(detail, erased, pseudonym)
    WHERE subject = erased OR detail ->> 'user' = erased
        OR subject = ANY (SELECT 'letter ' || number FROM unnest(letters) AS its (number))
        OR (is_distinct AND (strpos(concat_ws(' ', subject, reason), erased) > 0
            OR strpos(detail::text, in_json) > 0));
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('audit_log', rows);

    IF is_distinct THEN
        UPDATE operations SET metadata = without_id(metadata, erased, pseudonym),
            description = without_id(description, erased, pseudonym)
        WHERE operation_id = ANY (others);
        GET DIAGNOSTICS rows = ROW_COUNT;
        counts := counts || jsonb_build_object('operations of others', rows);
        UPDATE superseded_outcomes SET metadata = without_id(metadata, erased, pseudonym),
            description = without_id(description, erased, pseudonym)
        WHERE strpos(metadata::text, in_json) > 0 OR strpos(description, erased) > 0;
        GET DIAGNOSTICS rows = ROW_COUNT;
        counts := counts || jsonb_build_object('superseded_outcomes of others', rows);
        -- All other tables, also those of later versions: every column of text, in which words of ours are
        -- too short, or are other words, to be an id of eight characters.
        FOR beside IN
            SELECT c.oid::regclass AS name, c.relname::text AS table_name,
                string_agg(format(CASE a.atttypid WHEN 'jsonb'::regtype
                    THEN '%1$I = without_id(%1$I, $1, $2)'
                    ELSE '%1$I = without_id(%1$I::text, $1, $2)' END, a.attname), ', ') AS sets,
                string_agg(format(CASE a.atttypid WHEN 'jsonb'::regtype
                    THEN 'strpos(%1$I::text, $3) > 0'
                    ELSE 'has_id(%1$I::text, $1)' END, a.attname), ' OR ') AS conditions
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
                AND a.attnum > 0 AND NOT a.attisdropped
                AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'jsonb'::regtype)
                AND c.relname NOT IN ('alembic_version', 'identifiers', 'schema_compatibility',
                    'erased_ids', 'operations', 'superseded_outcomes', 'entries', 'lots', 'holds',
                    'hold_parts', 'usage_refunds', 'quotas', 'quota_entries', 'payments',
                    'payment_events', 'claims', 'payment_names', 'waiting_events', 'accounts',
                    'audit_log')
                AND a.attname NOT IN ('status', 'state', 'kind', 'code')
            GROUP BY c.oid, c.relname ORDER BY c.relname
        LOOP
            EXECUTE format('UPDATE %s SET %s WHERE %s', beside.name, beside.sets, beside.conditions)
                USING erased, pseudonym, in_json;
            GET DIAGNOSTICS rows = ROW_COUNT;
            counts := counts || jsonb_build_object(
                beside.table_name, coalesce((counts ->> beside.table_name)::bigint, 0) + rows);
        END LOOP;
    END IF;
    ON_END
    RETURN jsonb_build_object('account', account, 'counts', counts, 'left', theirs,
        'kept', coalesce(cardinality(kept), 0));
END $$
"""

_PURGE_DEAD_LETTERS = """
CREATE FUNCTION purge_dead_letters(numbers bigint[], with_parked boolean) RETURNS bigint OWNED AS $$
DECLARE
    gone bigint[];
BEGIN
    ON_BEGIN
    PERFORM pg_advisory_xact_lock(7301989);
    gone := ARRAY(
        SELECT number FROM dead_letters WHERE number = ANY (numbers)
            AND (status IN ('resolved', 'discarded') OR (with_parked AND status = 'parked')));
    UPDATE dead_letter_groups AS its SET
        parked = its.parked - gone_of.parked, waiting = its.waiting - gone_of.parked,
        resolved = its.resolved - gone_of.resolved, discarded = its.discarded - gone_of.discarded,
        tokens_at_stake = its.tokens_at_stake - gone_of.tokens,
        tokens_unknown = its.tokens_unknown - gone_of.unknown
    FROM (
        SELECT fingerprint, count(*) FILTER (WHERE status = 'parked') AS parked,
            count(*) FILTER (WHERE status = 'resolved') AS resolved,
            count(*) FILTER (WHERE status = 'discarded') AS discarded,
            coalesce(sum(tokens_at_stake) FILTER (WHERE status = 'parked'), 0) AS tokens,
            count(*) FILTER (WHERE status = 'parked' AND tokens_at_stake IS NULL) AS unknown
        FROM dead_letters WHERE number = ANY (gone) GROUP BY fingerprint
    ) AS gone_of
    WHERE its.fingerprint = gone_of.fingerprint;
    DELETE FROM replay_items WHERE number = ANY (gone);
    DELETE FROM dead_letter_edits WHERE number = ANY (gone);
    DELETE FROM dead_letter_events WHERE number = ANY (gone);
    DELETE FROM dead_letters WHERE number = ANY (gone);
    DELETE FROM dead_letter_groups WHERE sample = ANY (gone) AND waiting + resolved + discarded = 0;
    UPDATE dead_letter_groups AS its SET sample = latest.number, message = latest.message
    FROM (
        SELECT DISTINCT ON (fingerprint) fingerprint, number, message FROM dead_letters
        WHERE fingerprint IN (SELECT fingerprint FROM dead_letter_groups WHERE sample = ANY (gone))
        ORDER BY fingerprint, number DESC
    ) AS latest
    WHERE its.fingerprint = latest.fingerprint AND its.sample = ANY (gone);
    ON_END
    RETURN cardinality(gone);
END $$
"""

_PURGE_ACTIVITY = """
CREATE FUNCTION purge_activity(entries bigint[]) RETURNS bigint OWNED AS $$
DECLARE
    rows bigint;
BEGIN
    ON_BEGIN
    DELETE FROM audit_log WHERE entry_id = ANY (entries);
    GET DIAGNOSTICS rows = ROW_COUNT;
    ON_END
    RETURN rows;
END $$
"""


def upgrade() -> None:
    """Add the table of digests, and on PostgreSQL the functions; no row changes."""
    op.create_table(
        "erased_ids",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_erased_ids")),
    )
    if op.get_context().dialect.name != "postgresql":
        return
    # The path that the functions keep: the schema of the tables, and nothing of who calls them.
    op.execute("SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)")
    for statement in (_REFUSES, *_TEXTS, _ERASE_USER, _PURGE_DEAD_LETTERS, _PURGE_ACTIVITY):
        op.execute(sa.text(_completed(statement).replace(":", r"\:")))
    for function in GUARDED:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def _completed(statement: str) -> str:
    for mark, text in (("OWNED", _OWNED), ("ON_BEGIN", _BEGIN), ("ON_END", _END)):
        statement = statement.replace(mark, text)
    return statement


def downgrade() -> None:
    """Drop all of it; what was erased stays so."""
    if op.get_context().dialect.name == "postgresql":
        for function in (
            *GUARDED,
            "without_id(jsonb, text, text)",
            "without_id(text, text, text)",
            "has_id(text, text)",
            "erasure_pattern(text)",
        ):
            op.execute(f"DROP FUNCTION {function}")
        op.execute(_REFUSES_ALWAYS)
    op.drop_table("erased_ids")
