-- Where sessions are from and how they were begun, so that they can be listed and ended one by one.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE user_sessions
  ADD COLUMN IF NOT EXISTS ip_address inet,
  ADD COLUMN IF NOT EXISTS user_agent text,
  -- password, second_factor or oidc; null: begun by a replica of an earlier version.
  ADD COLUMN IF NOT EXISTS signed_in_by text;

-- Operators are few among users.
CREATE INDEX IF NOT EXISTS users_operators_idx ON users (created_at, id)
  WHERE operator OR operator_reads;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260127020000', 'sessions') ON CONFLICT DO NOTHING;
COMMIT;
