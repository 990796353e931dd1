-- Undoes 20260119050000_catalogue_metrics.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS catalogue_metrics;

DELETE FROM billing_schema_migrations WHERE version = '20260119050000';
COMMIT;
