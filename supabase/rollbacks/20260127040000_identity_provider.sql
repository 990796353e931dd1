-- Undoes 20260127040000_identity_provider.sql. Operators of the identity provider stay, and cannot
-- sign in.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS users
  DROP COLUMN IF EXISTS oidc_subject,
  DROP COLUMN IF EXISTS oidc_issuer;

DELETE FROM billing_schema_migrations WHERE version = '20260127040000';
COMMIT;
