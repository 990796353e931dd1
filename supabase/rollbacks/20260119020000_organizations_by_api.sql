-- Undoes 20260119020000_organizations_by_api.sql. Service keys stop working; which
-- organizations were archived, and the product's notes about them, are lost: back
-- them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS service_api_keys;
DROP INDEX IF EXISTS organizations_external_id_search_idx;
DROP INDEX IF EXISTS organizations_email_search_idx;
DROP INDEX IF EXISTS organizations_name_search_idx;
ALTER TABLE IF EXISTS organizations
  DROP COLUMN IF EXISTS folded_email,
  DROP COLUMN IF EXISTS folded_name,
  DROP COLUMN IF EXISTS archived_at,
  DROP COLUMN IF EXISTS metadata;

DELETE FROM billing_schema_migrations WHERE version = '20260119020000';
COMMIT;
