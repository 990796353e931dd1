-- Undoes 20260119060000_unentered_changes.sql. Versions of states are lower afterwards.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE organizations DROP COLUMN IF EXISTS unentered_changes;

DELETE FROM billing_schema_migrations WHERE version = '20260119060000';
COMMIT;
