-- Undoes 20260123040000_settled_holds.sql. A grace period that a mistake began counts as its
-- billing period's one again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('usage_reservations') IS NOT NULL THEN
    CREATE INDEX IF NOT EXISTS usage_reservations_expires_idx ON usage_reservations (expires_at);
  END IF;
END
$$;
DROP INDEX IF EXISTS usage_reservations_held_idx;
DROP INDEX IF EXISTS usage_reservations_held_until_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260123040000';
COMMIT;
