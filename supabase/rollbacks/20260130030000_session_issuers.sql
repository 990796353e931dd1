-- Undoes 20260130030000_session_issuers.sql. Sessions go on; by which provider is lost.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS user_sessions DROP COLUMN IF EXISTS issuer;

DELETE FROM billing_schema_migrations WHERE version = '20260130030000';
COMMIT;
