-- termgate's verifier for PostgreSQL 14 and later: a write commits only under the raised term.
--
-- Install as the role that shall own the fence (not as the application's role):
--     psql -v ON_ERROR_STOP=1 --single-transaction -f termgate.sql
--     SELECT termgate.termgate_protect('orders', 'orders');
--     GRANT USAGE ON SCHEMA termgate TO app;
--
-- Three acts:
--     raise    SELECT termgate.termgate_raise('orders', 42, 1);      by the leader, before it serves
--     begin    BEGIN; SELECT termgate.termgate_begin('orders', 42);  by every writing transaction
--     check    a trigger before every statement that writes to a protected table
--
-- Why it is built like this (README.md has the measurements):
--   * The check takes a shared advisory lock, the raise an exclusive one. Whoever writes holds the
--     lock until its transaction ends, so a raise returns only when no older write can commit. The
--     queue is fair: a stream of writers can't hold a raise up, as it can with row locks alone.
--   * The check reads the fence in the statement AFTER the one that took the lock, because a
--     statement's snapshot is taken before it waits for a lock.
--   * It reads FOR SHARE, because at REPEATABLE READ and SERIALIZABLE the snapshot may be older than
--     the raise: a plain read would see the old term, a locking read fails with 40001.
--
-- Errors, each with DETAIL 'current=N':
--     TG001  the term is stale          TG003  the transaction has not named its term
--     TG002  the term is not raised     TG004  older transactions do not end

CREATE SCHEMA termgate;

CREATE TABLE termgate.fence (
    resource  text        PRIMARY KEY,
    term      bigint      NOT NULL CHECK (term BETWEEN 1 AND 999999999999999),
    raised_by bigint,
    raised_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The timeline it was raised on. A promoted replica may have lost a raise; it is on another
    -- timeline, and admits nothing until the leader has raised the fence there again.
    timeline  integer     NOT NULL
);

-- The lock that stands for a resource. Two resources with the same hash only wait for each other.
CREATE FUNCTION termgate.lock_of(resource text) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN hashtextextended(resource, 1952937829);

-- The setting that carries the term of a transaction; hexadecimal, because the name of a setting
-- takes fewer characters than the name of a resource.
CREATE FUNCTION termgate.setting_of(resource text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'termgate.r' || encode(convert_to(resource, 'UTF8'), 'hex');

CREATE FUNCTION termgate.timeline() RETURNS integer
    LANGUAGE sql VOLATILE
    RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;

-- Names the term under which this transaction writes. It ends with the transaction: outside of one
-- it has no effect, and the next user of a pooled connection never inherits it.
CREATE FUNCTION termgate.termgate_begin(resource text, term bigint) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT set_config(termgate.setting_of(resource), term::text, true);
END;

-- Before each writing statement: lock, then read, then compare. Never merge the first two.
CREATE FUNCTION termgate.check_statement() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked   text := nullif(current_setting(termgate.setting_of(TG_ARGV[0]), true), '');
    current termgate.fence;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(termgate.lock_of(TG_ARGV[0]));
    SELECT f.* INTO current FROM termgate.fence f WHERE f.resource = TG_ARGV[0] FOR SHARE;
    IF asked IS NULL THEN
        RAISE EXCEPTION 'write to % without a term', TG_ARGV[0] USING ERRCODE = 'TG003',
            DETAIL = format('current=%s', coalesce(current.term, 0)),
            HINT = 'call termgate.termgate_begin(resource, term) first, in the same transaction';
    ELSIF asked::bigint < current.term THEN
        RAISE EXCEPTION 'term % of % is stale', asked, TG_ARGV[0] USING ERRCODE = 'TG001',
            DETAIL = format('current=%s', current.term),
            HINT = 'another node leads; the write had no effect';
    ELSIF current.term IS NULL OR asked::bigint > current.term OR current.timeline <> termgate.timeline() THEN
        RAISE EXCEPTION 'term % of % is not raised here', asked, TG_ARGV[0] USING ERRCODE = 'TG002',
            DETAIL = format('current=%s', coalesce(current.term, 0)),
            HINT = 'the leader has to call termgate.termgate_raise first';
    END IF;
    RETURN NULL;
END $$;

-- Who holds the lock of a resource: sessions by pid, prepared transactions by name.
CREATE FUNCTION termgate.holders(resource text) RETURNS TABLE (pid integer, prepared text)
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l.pid, p.gid
    FROM pg_locks l
    -- A prepared transaction has no pid; it is found by the lock on its own id.
    LEFT JOIN pg_locks own
        ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
       AND own.virtualtransaction = l.virtualtransaction
    LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
    WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock' AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = termgate.lock_of(resource);
END;

-- Raises the fence. It counts when its transaction has committed, so call it by itself. Older
-- transactions are waited for; those that take longer than patience_ms are terminated.
CREATE FUNCTION termgate.termgate_raise(
    resource text, term bigint, node bigint DEFAULT NULL, patience_ms integer DEFAULT 2000
) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    lock_key bigint := termgate.lock_of($1);
    present  termgate.fence;
    prepared text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'raise the fence at read committed, not at %', current_setting('transaction_isolation');
    END IF;
    SELECT f.* INTO present FROM termgate.fence f WHERE f.resource = $1;
    IF present.term > $2 THEN
        RAISE EXCEPTION 'the fence of % is higher than %', $1, $2 USING ERRCODE = 'TG001',
            DETAIL = format('current=%s', present.term), HINT = 'another node leads';
    ELSIF present.term = $2 AND present.timeline = termgate.timeline() THEN
        RETURN present.term; -- raised and committed before; nothing older was left then
    END IF;

    PERFORM set_config('lock_timeout', $4::text, true);
    BEGIN
        PERFORM pg_advisory_xact_lock(lock_key);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM pg_terminate_backend(h.pid, $4) FROM termgate.holders($1) h WHERE h.pid IS NOT NULL;
        BEGIN
            PERFORM pg_advisory_xact_lock(lock_key);
        EXCEPTION WHEN lock_not_available THEN
            SELECT string_agg(quote_literal(h.prepared), ', ') INTO prepared FROM termgate.holders($1) h;
            RAISE EXCEPTION 'older transactions on % do not end', $1 USING ERRCODE = 'TG004',
                DETAIL = format('current=%s', coalesce(present.term, 0)),
                HINT = coalesce('resolve the prepared transactions ' || prepared || ' with ROLLBACK PREPARED',
                                'repeat the raise; the owner needs pg_signal_backend to end sessions');
        END;
    END;

    SELECT f.* INTO present FROM termgate.fence f WHERE f.resource = $1;
    IF present.term > $2 THEN -- another raise came first
        RAISE EXCEPTION 'the fence of % is higher than %', $1, $2 USING ERRCODE = 'TG001',
            DETAIL = format('current=%s', present.term), HINT = 'another node leads';
    END IF;
    INSERT INTO termgate.fence AS f (resource, term, raised_by, timeline)
    VALUES ($1, $2, $3, termgate.timeline())
    ON CONFLICT (resource) DO UPDATE SET term = excluded.term, raised_by = excluded.raised_by,
        raised_at = excluded.raised_at, timeline = excluded.timeline;
    RETURN $2;
END $$;

-- The fence as GET shows it; no row before the first raise.
CREATE FUNCTION termgate.termgate_present(resource text)
    RETURNS TABLE (term bigint, raised_by bigint, on_this_timeline boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT f.term, f.raised_by, f.timeline = termgate.timeline()
    FROM termgate.fence f WHERE f.resource = termgate_present.resource;
END;

-- Puts the check in front of a table and of its present partitions. Only the table's owner can.
-- ENABLE ALWAYS: session_replication_role = replica does not switch it off.
CREATE FUNCTION termgate.termgate_protect(target regclass, resource text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN
        SELECT target UNION SELECT t.relid FROM pg_partition_tree(target) t
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER termgate_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION termgate.check_statement(%L)', relation, resource);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER termgate_fence', relation);
    END LOOP;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA termgate FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION termgate.termgate_raise(text, bigint, bigint, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION termgate.holders(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION termgate.termgate_protect(regclass, text) FROM PUBLIC;
