"""Erasure of users, and purges of dead letters and of the activity log: the only ways past the guards.

Three functions with the rights of the tables' owner, which nobody may execute but who is given it. The guards
let the owner through within them alone: a setting that each function makes while it runs says so.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
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
CREATE FUNCTION without_id(value text, id text, pseudonym text, kept text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN strpos(value, id) > 0 AND value <> ALL (kept)
        THEN regexp_replace(value, erasure_pattern(id), pseudonym, 'g') ELSE value END
$$
""",
    """
CREATE FUNCTION without_id(value jsonb, id text, pseudonym text, kept text[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'string' THEN to_jsonb(without_id(value #>> '{}', id, pseudonym, kept))
        WHEN 'array' THEN (
            SELECT coalesce(jsonb_agg(without_id(item, id, pseudonym, kept) ORDER BY place), '[]')
            FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, place))
        WHEN 'object' THEN (
            SELECT coalesce(jsonb_object_agg(
                without_id(name, id, pseudonym, kept), without_id(item, id, pseudonym, kept)), '{}')
            FROM jsonb_each(value) AS items (name, item))
        ELSE value
    END;
END $$
""",
    """
CREATE FUNCTION without_id(value bytea, id text, pseudonym text, kept text[]) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_to(without_id(convert_from(value, 'UTF8'), id, pseudonym, kept), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN convert_to('erased', 'UTF8');  -- no text, and so no message that could be sent again
END $$
""",
)

# 1. What is the user's is found without a lock: that takes a reading of all operations.
# 2. The account is locked as a batch does, and what came since is added: from here on it is short.
# 3. Commands of the user, and events of payments that had the id in their names, are known by their digests.
# 4. Rows of the user: the id becomes the pseudonym, also within references; free texts go.
# 5. Rows of others that name it, where the id is long enough to be told from a word.
_ERASE_USER = r"""
CREATE FUNCTION erase_user(erased text, pseudonym text, actor text) RETURNS jsonb OWNED AS $$
DECLARE
    of_slot CONSTANT smallint := get_byte(sha256(convert_to(CASE
        WHEN octet_length(erased) = char_length(erased) THEN erased
        ELSE normalize(erased, NFC) END, 'UTF8')), 0) >> 2;
    in_json CONSTANT text := substr(to_jsonb(erased)::text, 2, char_length(to_jsonb(erased)::text) - 2);
    in_bytes CONSTANT bytea := convert_to(in_json, 'UTF8');
    -- As writers of JSON have it that escape all but ASCII, such as Python's.
    in_ascii CONSTANT text := (
        SELECT string_agg(CASE WHEN ascii(c) < 128 THEN c
            WHEN ascii(c) < 65536 THEN '\u' || lpad(to_hex(ascii(c)), 4, '0')
            ELSE '\u' || to_hex(55296 + (ascii(c) - 65536) / 1024)
                || '\u' || to_hex(56320 + (ascii(c) - 65536) % 1024) END, '' ORDER BY place)
        FROM regexp_split_to_table(in_json, '') WITH ORDINALITY AS its (c, place));
    in_ascii_bytes CONSTANT bytea := convert_to(in_ascii, 'UTF8');
    is_distinct CONSTANT boolean := char_length(erased) >= 8;
    nothing CONSTANT bytea := convert_to('erased', 'UTF8');
    began CONSTANT timestamptz := clock_timestamp();
    -- Filters as operators gave them, kept as text, and what they set with an edit: of an id of any length.
    in_filter CONSTANT text := '((?:^|[,:] )(?:user |userId=|metadata [^=,]*=|referenceId='
        '|reference prefix |text=))' || regexp_replace(erased, '([^[:alnum:]])', '\\\1', 'g')
        || '(?![[:alnum:]])';
    sets_user CONSTANT jsonb := jsonb_build_array(jsonb_build_array('userId', erased));
    account bigint;
    own bigint[];
    others bigint[];
    staying bigint[];
    letters_staying bigint := 0;
    kept text[];
    letters bigint[];
    edits bigint[];
    sent bigint[];
    reversed bigint[];
    sets text[];
    rows bigint;
    counts jsonb := '{}';
    kept_filter text;
    beside record;
BEGIN
    -- Another name would give the account to somebody: no row says of a pseudonym whose it was.
    IF (erased <> '' AND pseudonym ~ '^erased-[0-9a-f]{16}$' AND erased <> pseudonym
        AND get_byte(sha256(convert_to(pseudonym, 'UTF8')), 0) >> 2 = of_slot) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'erase_user takes an id, and a fresh pseudonym of its slot: use account erase'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    ON_BEGIN
    -- An event whose payment hasn't come has no user: with the id in a name it is taken for this one's.
    SELECT array_agg(operation_id) FILTER (WHERE is_own),
        array_agg(operation_id) FILTER (WHERE NOT is_own AND NOT in_reference
            AND (in_texts OR (in_command AND status = 2))),
        array_agg(operation_id) FILTER (WHERE NOT is_own
            AND (in_reference OR (in_command AND status = 1)))
    INTO own, others, staying
    FROM (
        SELECT operation_id, status,
            user_id = erased OR (is_distinct AND user_id = '' AND (strpos(reference_id, erased) > 0
                OR strpos(concat_ws(' ', content, detail::text), in_json) > 0)) AS is_own,
            is_distinct AND strpos(reference_id, erased) > 0 AS in_reference,
            is_distinct AND strpos(concat_ws(' ', content, detail::text), in_json) > 0 AS in_command,
            is_distinct AND (strpos(metadata::text, in_json) > 0
                OR strpos(description, erased) > 0) AS in_texts
        FROM operations
    ) AS each
    WHERE is_own OR in_reference OR in_command OR in_texts;

    SELECT account_id INTO account FROM accounts WHERE slot = of_slot AND user_id = erased FOR UPDATE;
    staying := coalesce(staying, '{}');
    own := coalesce(own, '{}') || ARRAY(
        SELECT operation_id FROM operations
        WHERE slot = of_slot AND user_id = erased AND recorded_at > began - interval '1 hour'
            AND operation_id <> ALL (coalesce(own, '{}')));
    -- Dead letters change under one lock, see worker/deadletters/store/transaction.py.
    PERFORM pg_advisory_xact_lock(7301989);

    -- Without a user that could be read, a dead letter that holds the id is taken for the user's.
    letters := ARRAY(
        SELECT number FROM dead_letters
        WHERE user_id = erased OR (is_distinct AND user_id IS NULL AND (position(in_bytes IN body) > 0
            OR position(in_bytes IN edited_body) > 0 OR strpos(properties::text, in_json) > 0
            OR position(in_ascii_bytes IN body) > 0 OR position(in_ascii_bytes IN edited_body) > 0
            OR strpos(concat_ws(' ', reference_id, message, traceback, note), erased) > 0)));
    IF EXISTS (SELECT FROM dead_letters WHERE number = ANY (letters) AND status = 'replaying') THEN
        RAISE EXCEPTION 'a dead letter of the user is being replayed' USING ERRCODE = 'object_in_use';
    END IF;

    -- A reference, or a name of a payment, that stands in a row of another user's which decides what counts
    -- once stays, and stays everywhere.
    kept := ARRAY(
        SELECT DISTINCT used.name
        FROM (
            SELECT reference_id FROM operations WHERE operation_id = ANY (staying)
            UNION ALL SELECT string #>> '{}' FROM operations,
                jsonb_path_query(jsonb_build_array(content::jsonb, detail), 'lax $.**') AS string
                WHERE operation_id = ANY (staying) AND status = 1 AND jsonb_typeof(string) = 'string'
            UNION ALL SELECT mine.reference_id FROM operations AS mine JOIN operations AS other
                ON other.reference_id = mine.reference_id AND other.operation_id <> ALL (own)
                WHERE mine.operation_id = ANY (own)
            UNION ALL SELECT unnest(ARRAY[payment_names.name, payment_reference]) FROM payment_names
                WHERE user_id <> erased
            UNION ALL SELECT unnest(ARRAY[reference_id, payment_reference, dispute_id, refund_reference])
                FROM payment_events WHERE account_id IS DISTINCT FROM account
        ) AS used (name)
        WHERE has_id(used.name, erased));

    INSERT INTO erased_ids (digest)
    SELECT DISTINCT encode(sha256(convert_to('erased ' || name, 'UTF8')), 'hex')
    FROM (
        SELECT erased AS name
        UNION ALL SELECT reference_id FROM operations
            WHERE operation_id = ANY (own) AND (type BETWEEN 21 AND 27 OR type IN (63, 64))
                AND has_id(reference_id, erased)
        UNION ALL SELECT payment_names.name FROM payment_names
            WHERE (user_id = erased OR (is_distinct AND user_id IS NULL))
                AND has_id(payment_names.name, erased)
    ) AS names
    WHERE names.name <> ALL (kept)
    ON CONFLICT DO NOTHING;

    UPDATE accounts SET user_id = pseudonym WHERE slot = of_slot AND user_id = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('accounts', rows);

    UPDATE operations SET user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        reference_id = without_id(reference_id, erased, pseudonym, kept),
        content = CASE WHEN strpos(content, in_json) > 0
            THEN without_id(content::jsonb, erased, pseudonym, kept)::text ELSE content END,
        detail = CASE WHEN type = 42 THEN
            jsonb_set(without_id(detail, erased, pseudonym, kept), '{reason}', '"erased"', false)
            ELSE without_id(detail, erased, pseudonym, kept) END,
        notices = without_id(notices, erased, pseudonym, kept),
        metadata = NULL, description = NULL
    WHERE operation_id = ANY (own);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('operations', rows);

    UPDATE superseded_outcomes SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        reference_id = without_id(reference_id, erased, pseudonym, kept),
        content = CASE WHEN strpos(content, in_json) > 0
            THEN without_id(content::jsonb, erased, pseudonym, kept)::text ELSE content END,
        detail = CASE WHEN type = 42 THEN
            jsonb_set(without_id(detail, erased, pseudonym, kept), '{reason}', '"erased"', false)
            ELSE without_id(detail, erased, pseudonym, kept) END,
        notices = without_id(notices, erased, pseudonym, kept),
        metadata = NULL, description = NULL
    WHERE operation_id = ANY (own);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('superseded_outcomes', rows);

    UPDATE holds SET reference_id = without_id(reference_id, erased, pseudonym, kept)
    WHERE slot = of_slot AND account_id = account
        AND has_id(reference_id, erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('holds', rows);

    UPDATE payments SET reference_id = without_id(reference_id, erased, pseudonym, kept)
    WHERE slot = of_slot AND account_id = account
        AND has_id(reference_id, erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payments', rows);

    UPDATE payment_events SET
        reference_id = without_id(reference_id, erased, pseudonym, kept),
        payment_reference = without_id(payment_reference, erased, pseudonym, kept),
        dispute_id = without_id(dispute_id, erased, pseudonym, kept),
        refund_reference = without_id(refund_reference, erased, pseudonym, kept)
    WHERE slot = of_slot AND account_id = account
        AND has_id(concat_ws(' ', reference_id, payment_reference, dispute_id, refund_reference), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payment_events', rows);

    UPDATE payment_names SET version = version + 1,
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        name = without_id(name, erased, pseudonym, kept),
        payment_reference = without_id(payment_reference, erased, pseudonym, kept),
        same_as = without_id(same_as, erased, pseudonym, kept)
    WHERE user_id = erased OR (is_distinct AND user_id IS NULL
        AND has_id(concat_ws(' ', payment_names.name, same_as), erased));
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('payment_names', rows);

    UPDATE waiting_events SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        reference_id = without_id(reference_id, erased, pseudonym, kept),
        name = without_id(name, erased, pseudonym, kept),
        dispute_id = without_id(dispute_id, erased, pseudonym, kept),
        refund_reference = without_id(refund_reference, erased, pseudonym, kept)
    WHERE user_id = erased OR has_id(concat_ws(' ', reference_id, waiting_events.name, dispute_id,
        refund_reference), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('waiting_events', rows);

    UPDATE claims SET
        user_id = CASE WHEN user_id = erased THEN pseudonym ELSE user_id END,
        taken_from = CASE WHEN taken_from = erased THEN pseudonym ELSE taken_from END,
        reference_id = without_id(reference_id, erased, pseudonym, kept)
    WHERE (slot = of_slot AND user_id = erased) OR taken_from = erased;
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('claims', rows);

    FOREACH kept_filter IN ARRAY ARRAY['replays', 'reverse_runs', 'dead_letter_set_edits'] LOOP
        EXECUTE format('UPDATE %I SET source = regexp_replace(source, $1, $2, ''g'') WHERE source ~ $1',
            kept_filter) USING in_filter, '\1' || pseudonym;
        GET DIAGNOSTICS rows = ROW_COUNT;
        counts := counts || jsonb_build_object(kept_filter, rows);
    END LOOP;
    UPDATE dead_letter_set_edits SET changes = without_id(changes, erased, pseudonym, kept)
    WHERE changes -> 'set' @> sets_user;
    UPDATE audit_log SET subject = regexp_replace(subject, in_filter, '\1' || pseudonym, 'g'),
        detail = CASE WHEN detail ->> 'source' ~ in_filter THEN jsonb_set(detail, '{source}',
            to_jsonb(regexp_replace(detail ->> 'source', in_filter, '\1' || pseudonym, 'g')))
            ELSE detail END
    WHERE subject ~ in_filter OR detail ->> 'source' ~ in_filter;
    UPDATE audit_log SET detail = jsonb_set(detail, '{changes}',
        without_id(detail -> 'changes', erased, pseudonym, kept))
    WHERE detail #> '{changes,set}' @> sets_user;

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
        reference_id = without_id(reference_id, erased, pseudonym, kept),
        letter_id = without_id(letter_id, erased, pseudonym, kept),
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

    -- Sets that operators chose: their filters, changes and reasons may name the user, in the log as well.
    edits := ARRAY(SELECT DISTINCT set_edit_id FROM dead_letter_edits
        WHERE number = ANY (letters) AND set_edit_id IS NOT NULL);
    UPDATE dead_letter_set_edits SET source = without_id(source, erased, pseudonym, kept),
        reason = without_id(reason, erased, pseudonym, kept),
        changes = without_id(changes, erased, pseudonym, kept)
    WHERE set_edit_id = ANY (edits) AND has_id(concat_ws(' ', source, reason, changes::text), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('dead_letter_set_edits', rows);
    sent := ARRAY(SELECT DISTINCT replay_id FROM replay_items WHERE number = ANY (letters));
    UPDATE replays SET source = without_id(source, erased, pseudonym, kept),
        reason = without_id(reason, erased, pseudonym, kept)
    WHERE replay_id = ANY (sent) AND has_id(concat_ws(' ', source, reason), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('replays', rows);
    reversed := ARRAY(SELECT DISTINCT run_id FROM reverse_items
        WHERE slot = of_slot AND operation_id = ANY (own));
    UPDATE reverse_runs SET source = without_id(source, erased, pseudonym, kept),
        reason = without_id(reason, erased, pseudonym, kept)
    WHERE run_id = ANY (reversed) AND has_id(concat_ws(' ', source, reason), erased);
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('reverse_runs', rows);
    sets := ARRAY(SELECT 'edit ' || its FROM unnest(edits) AS each (its)
        UNION ALL SELECT 'replay ' || its FROM unnest(sent) AS each (its)
        UNION ALL SELECT 'reverse run ' || its FROM unnest(reversed) AS each (its));

    UPDATE audit_log SET reason = CASE WHEN reason IS NULL THEN NULL ELSE 'erased' END,
        subject = without_id(subject, erased, pseudonym, kept),
        detail = without_id(detail, erased, pseudonym, kept)
    WHERE subject = erased OR detail ->> 'user' = erased
        OR subject = ANY (SELECT 'letter ' || number FROM unnest(letters) AS its (number))
        OR (substring(subject FROM '^(?:edit|replay|reverse run) [0-9]+') = ANY (sets)
            AND has_id(concat_ws(' ', subject, reason, detail::text), erased))
        OR (is_distinct AND (strpos(concat_ws(' ', subject, reason), erased) > 0
            OR strpos(detail::text, in_json) > 0));
    GET DIAGNOSTICS rows = ROW_COUNT;
    counts := counts || jsonb_build_object('audit_log', rows);

    IF is_distinct THEN
        -- A refusal of another user's command moved nothing, whatever a late copy says.
        UPDATE operations SET metadata = without_id(metadata, erased, pseudonym, kept),
            description = without_id(description, erased, pseudonym, kept),
            content = CASE WHEN status = 2 AND strpos(content, in_json) > 0
                THEN without_id(content::jsonb, erased, pseudonym, kept)::text ELSE content END,
            detail = CASE WHEN status = 2 THEN without_id(detail, erased, pseudonym, kept) ELSE detail END
        WHERE operation_id = ANY (others);
        GET DIAGNOSTICS rows = ROW_COUNT;
        counts := counts || jsonb_build_object('operations of others', rows);
        UPDATE superseded_outcomes SET metadata = without_id(metadata, erased, pseudonym, kept),
            description = without_id(description, erased, pseudonym, kept),
            content = CASE WHEN strpos(content, in_json) > 0
                THEN without_id(content::jsonb, erased, pseudonym, kept)::text ELSE content END,
            detail = without_id(detail, erased, pseudonym, kept)
        WHERE strpos(reference_id, erased) = 0 AND (strpos(description, erased) > 0
            OR strpos(concat_ws(' ', metadata::text, content, detail::text), in_json) > 0);
        GET DIAGNOSTICS rows = ROW_COUNT;
        counts := counts || jsonb_build_object('superseded_outcomes of others', rows);
        SELECT count(*) INTO letters_staying FROM dead_letters
        WHERE user_id <> pseudonym AND has_id(reference_id, erased);
        -- All other tables, also those of later versions: every column of text or bytes. A dead letter whose
        -- reference is another user's stays as it is, so that it counts once.
        FOR beside IN
            SELECT c.oid::regclass AS name, c.relname::text AS table_name,
                string_agg(format(CASE a.atttypid
                    WHEN 'jsonb'::regtype THEN '%1$I = without_id(%1$I, $1, $2, $5)'
                    WHEN 'bytea'::regtype THEN '%1$I = without_id(without_id('
                        'without_id(%1$I, $1, $2, $5), $3, $2, $5), $6, $2, $5)'
                    ELSE '%1$I = without_id(%1$I::text, $1, $2, $5)' END, a.attname), ', ') AS sets,
                string_agg(format(CASE a.atttypid
                    WHEN 'jsonb'::regtype THEN 'strpos(%1$I::text, $3) > 0'
                    WHEN 'bytea'::regtype
                    THEN 'position($4 IN %1$I) > 0 OR position($7 IN %1$I) > 0'
                    ELSE 'has_id(%1$I::text, $1)' END, a.attname), ' OR ') AS conditions
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
                AND a.attnum > 0 AND NOT a.attisdropped
                AND a.atttypid IN (
                    'text'::regtype, 'varchar'::regtype, 'jsonb'::regtype, 'bytea'::regtype)
                AND c.relname NOT IN ('alembic_version', 'identifiers', 'schema_compatibility',
                    'erased_ids', 'operations', 'superseded_outcomes', 'entries', 'lots', 'holds',
                    'hold_parts', 'usage_refunds', 'quotas', 'quota_entries', 'payments',
                    'payment_events', 'claims', 'payment_names', 'waiting_events', 'accounts',
                    'audit_log', 'catalogs', 'write_probes')
                AND a.attname NOT IN ('status', 'state', 'kind', 'code')
            GROUP BY c.oid, c.relname ORDER BY c.relname
        LOOP
            EXECUTE format('UPDATE %s SET %s WHERE (%s)%s', beside.name, beside.sets, beside.conditions,
                CASE beside.table_name WHEN 'dead_letters'
                    THEN ' AND NOT coalesce(has_id(reference_id, $1), false)' ELSE '' END)
                USING erased, pseudonym, in_json, in_bytes, kept, in_ascii, in_ascii_bytes;
            GET DIAGNOSTICS rows = ROW_COUNT;
            counts := counts || jsonb_build_object(
                beside.table_name, coalesce((counts ->> beside.table_name)::bigint, 0) + rows);
        END LOOP;
    END IF;
    ON_END
    RETURN jsonb_build_object('account', account, 'counts', counts, 'kept', cardinality(kept),
        'left', coalesce(cardinality(staying), 0) + letters_staying);
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
            "without_id(bytea, text, text, text[])",
            "without_id(jsonb, text, text, text[])",
            "without_id(text, text, text, text[])",
            "has_id(text, text)",
            "erasure_pattern(text)",
        ):
            op.execute(f"DROP FUNCTION {function}")
        op.execute(_REFUSES_ALWAYS)
    op.drop_table("erased_ids")
