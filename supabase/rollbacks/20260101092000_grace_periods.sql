-- Undoes 20260101092000_grace_periods.sql. The rows of these tables are lost: back them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS grace_periods;

DELETE FROM billing_schema_migrations WHERE version = '20260101092000';
COMMIT;
