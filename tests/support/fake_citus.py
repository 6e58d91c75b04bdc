"""Fake of a Citus coordinator in PostgreSQL: its catalogs and functions, as far as a distribution needs them.

Each function refuses what Citus was seen to refuse, in its words and with its codes, and changes its catalogs
alike. Nothing is distributed.
"""

from sqlalchemy import Engine

_FAKE = """
CREATE TABLE pg_dist_local_group (groupid int);
INSERT INTO pg_dist_local_group VALUES (0);
CREATE TABLE pg_dist_node (groupid int, nodename text, nodeport int, noderole text DEFAULT 'primary',
    isactive bool DEFAULT true, shouldhaveshards bool DEFAULT true, hasmetadata bool DEFAULT true,
    metadatasynced bool DEFAULT true);
INSERT INTO pg_dist_node (groupid, nodename, nodeport, shouldhaveshards)
    VALUES (0, 'coordinator', 5432, false), (1, 'node-1', 5432, true), (2, 'node-2', 5432, true);
CREATE TABLE pg_dist_partition (logicalrelid regclass PRIMARY KEY, partkey text, colocationid int);
CREATE TABLE pg_dist_shard (logicalrelid regclass, shardid bigserial PRIMARY KEY,
    shardminvalue text, shardmaxvalue text,
    low bigint GENERATED ALWAYS AS (shardminvalue::bigint) STORED,
    high bigint GENERATED ALWAYS AS (shardmaxvalue::bigint) STORED);
CREATE FUNCTION column_to_column_name(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
CREATE FUNCTION worker_hash(value smallint) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT hashint2($1)';

CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
    distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE other record; step bigint; own int;
BEGIN
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = table_name) THEN
        RAISE 'table "%" is already distributed', table_name;
    END IF;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = table_name AND NOT tgisinternal)
        AND coalesce(current_setting('citus.enable_unsafe_triggers', true), 'off') <> 'on' THEN
        RAISE 'cannot distribute relation "%" because it has triggers', table_name USING ERRCODE = '0A000';
    END IF;
    IF EXISTS (SELECT FROM pg_index i WHERE indrelid = table_name AND indisunique AND NOT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = table_name AND a.attnum = ANY (i.indkey)
            AND a.attname = distribution_column)) THEN
        RAISE 'cannot create constraint on "%"', table_name USING ERRCODE = '0A000';
    END IF;
    FOR other IN SELECT confrelid::regclass AS name FROM pg_constraint
        WHERE conrelid = table_name AND contype = 'f' AND confrelid <> table_name LOOP
        IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = other.name) THEN
            RAISE 'referenced table "%" must be a distributed table or a reference table', other.name
                USING ERRCODE = '0A000';
        END IF;
    END LOOP;
    IF colocate_with IN ('none', 'default') THEN
        own := coalesce((SELECT max(colocationid) FROM pg_dist_partition), 0) + 1;
        step := 4294967296 / shard_count;
        INSERT INTO pg_dist_shard (logicalrelid, shardminvalue, shardmaxvalue)
            SELECT table_name, (-2147483648 + n * step)::text, (-2147483648 + (n + 1) * step - 1)::text
            FROM generate_series(0, shard_count - 1) n;
    ELSE
        own := (SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = colocate_with::regclass);
        INSERT INTO pg_dist_shard (logicalrelid, shardminvalue, shardmaxvalue)
            SELECT table_name, shardminvalue, shardmaxvalue FROM pg_dist_shard
            WHERE logicalrelid = colocate_with::regclass;
    END IF;
    INSERT INTO pg_dist_partition VALUES (table_name, distribution_column, own);
END $$;

CREATE FUNCTION get_shard_id_for_distribution_column(table_name regclass, value smallint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE hashed bigint := worker_hash(value);
BEGIN
    RETURN (SELECT shardid FROM pg_dist_shard
        WHERE logicalrelid = table_name AND low <= hashed AND high >= hashed);
END $$;

CREATE FUNCTION isolate_tenant_to_new_shard(table_name regclass, tenant_id int,
    cascade_option text DEFAULT '', shard_transfer_mode text DEFAULT 'auto')
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE source record; hashed bigint := worker_hash(tenant_id::smallint);
BEGIN
    IF cascade_option <> 'CASCADE' THEN
        RAISE 'cannot isolate tenant because "%" has colocated tables', table_name USING ERRCODE = '0A000';
    END IF;
    FOR source IN DELETE FROM pg_dist_shard WHERE low <= hashed AND high >= hashed RETURNING * LOOP
        IF source.shardminvalue = source.shardmaxvalue THEN
            RAISE 'table "%" has already been isolated for the given value', table_name
                USING ERRCODE = '55000';
        END IF;
        INSERT INTO pg_dist_shard (logicalrelid, shardminvalue, shardmaxvalue)
            SELECT source.logicalrelid, low::text, high::text FROM (VALUES
                (source.low, hashed - 1), (hashed, hashed), (hashed + 1, source.high)) AS split (low, high)
            WHERE low <= high;
    END LOOP;
    RETURN get_shard_id_for_distribution_column(table_name, tenant_id::smallint);
END $$;

SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT 999999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2-1';
RESET allow_system_table_mods;
"""


def install_fake_citus(engine: Engine) -> None:
    """Make the database behind ``engine`` look like a coordinator with two nodes."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_FAKE.replace("%", "%%"))


def change_fake(engine: Engine, statement: str) -> None:
    """Change the fake's catalogs."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL allow_system_table_mods = on; {statement}")
