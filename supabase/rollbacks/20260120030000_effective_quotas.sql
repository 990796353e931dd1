-- Undoes 20260120030000_effective_quotas.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP VIEW IF EXISTS effective_usage_quotas;

DELETE FROM billing_schema_migrations WHERE version = '20260120030000';
COMMIT;
