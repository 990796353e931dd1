-- Operators who look at everything and change nothing. They are not `operator`, so that a
-- replica of an earlier version lets them do nothing at all.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE users ADD COLUMN IF NOT EXISTS operator_reads boolean NOT NULL DEFAULT false;
ALTER TABLE users
  DROP CONSTRAINT IF EXISTS users_operator_check,
  ADD CONSTRAINT users_operator_check CHECK (NOT (operator AND operator_reads));

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260122060000', 'read_only_operators') ON CONFLICT DO NOTHING;
COMMIT;
