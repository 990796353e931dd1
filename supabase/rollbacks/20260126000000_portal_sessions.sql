-- Undoes 20260126000000_portal_sessions.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_invoices_open_idx;
DROP TABLE IF EXISTS portal_sessions;

DELETE FROM billing_schema_migrations WHERE version = '20260126000000';
COMMIT;
