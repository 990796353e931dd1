-- Undoes 20260114020000_features.sql. What plans say is assigned again by the
-- next start; operators' overrides do not come back.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS feature_overrides;
DROP TABLE IF EXISTS organization_features;

DELETE FROM billing_schema_migrations WHERE version = '20260114020000';
COMMIT;
