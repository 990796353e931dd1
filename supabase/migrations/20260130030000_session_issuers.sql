-- Which identity provider a session was begun by, so that those of another one end.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE user_sessions
  -- Of a session by the identity provider: OIDC_ISSUER as it was then. Null of any other, and
  -- of one that a replica of an earlier version began.
  ADD COLUMN IF NOT EXISTS issuer text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130030000', 'session_issuers') ON CONFLICT DO NOTHING;
COMMIT;
