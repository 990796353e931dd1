-- Undoes 20260130020300_usage_denials.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS usage_denials;

DELETE FROM billing_schema_migrations WHERE version = '20260130020300';
COMMIT;
