-- Undoes 20260101090100_organizations.sql. The rows of these tables are lost: back them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS usage_quotas;
DROP TABLE IF EXISTS users;
DROP TABLE IF EXISTS organizations;

DELETE FROM billing_schema_migrations WHERE version = '20260101090100';
COMMIT;
