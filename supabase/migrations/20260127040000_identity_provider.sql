-- Operators who sign in by an identity provider: whose user they are, and what they are called
-- there. They have no password.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE users
  ADD COLUMN IF NOT EXISTS oidc_issuer text,
  ADD COLUMN IF NOT EXISTS oidc_subject text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260127040000', 'identity_provider') ON CONFLICT DO NOTHING;
COMMIT;
