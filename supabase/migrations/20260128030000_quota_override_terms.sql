-- Why an operator set a quota, until when, and who it was.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE usage_quota_overrides
  ADD COLUMN IF NOT EXISTS reason text,
  -- Null: until it is removed.
  ADD COLUMN IF NOT EXISTS expires_at timestamptz,
  -- A user's id, or the login name of whoever ran the command.
  ADD COLUMN IF NOT EXISTS set_by text;

CREATE INDEX IF NOT EXISTS usage_quota_overrides_expires_idx
  ON usage_quota_overrides (expires_at) WHERE expires_at IS NOT NULL;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260128030000', 'quota_override_terms') ON CONFLICT DO NOTHING;
COMMIT;
