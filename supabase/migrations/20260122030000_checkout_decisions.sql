-- What was decided about a checkout that was paid, and when to look at an open page.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- Whether what was bought is taken back, because another subscription had begun before:
-- decided once, before anything is canceled.
ALTER TABLE checkout_sessions ADD COLUMN IF NOT EXISTS taking_back boolean;
ALTER TABLE checkout_sessions ADD COLUMN IF NOT EXISTS next_look_at timestamptz;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260122030000', 'checkout_decisions') ON CONFLICT DO NOTHING;
COMMIT;
