-- Undoes 20260128010000_bulk_actions.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS webhook_bulk_actions;

DELETE FROM billing_schema_migrations WHERE version = '20260128010000';
COMMIT;
