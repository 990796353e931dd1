-- Undoes 20260127020000_sessions.sql. Sessions go on; where they are from is lost.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS user_sessions
  DROP COLUMN IF EXISTS signed_in_by,
  DROP COLUMN IF EXISTS user_agent,
  DROP COLUMN IF EXISTS ip_address;

DROP INDEX IF EXISTS users_operators_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260127020000';
COMMIT;
