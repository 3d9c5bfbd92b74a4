-- The ledger's table and roles. Run after recipes/postgresql/termgate.sql, as the owner of both:
--     psql -v ON_ERROR_STOP=1 -d ledger -f setup.sql
CREATE TABLE ledger (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    term       bigint NOT NULL,
    node       bigint NOT NULL,
    request_id text,
    body       text   NOT NULL
);
SELECT termgate.termgate_protect('ledger', 'orders');

-- ledger_app writes and cannot raise; ledger_raise raises and cannot write.
CREATE ROLE ledger_app LOGIN;
GRANT USAGE ON SCHEMA termgate TO ledger_app;
GRANT SELECT, INSERT ON ledger TO ledger_app;

CREATE ROLE ledger_raise LOGIN;
GRANT USAGE ON SCHEMA termgate TO ledger_raise;
GRANT EXECUTE ON FUNCTION termgate.termgate_raise(text, bigint, bigint, integer) TO ledger_raise;
