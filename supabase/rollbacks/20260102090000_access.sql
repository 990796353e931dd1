-- Undoes 20260102090000_access.sql. Members, sessions, API keys and passwords are lost; users stay.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS login_throttles;
DROP TABLE IF EXISTS api_keys;
DROP TABLE IF EXISTS user_sessions;
DROP TABLE IF EXISTS organization_members;
DROP POLICY IF EXISTS users_worker ON users;
REVOKE ALL ON users FROM billing_worker;
ALTER TABLE users DROP COLUMN IF EXISTS operator;
ALTER TABLE users DROP COLUMN IF EXISTS password_changed_at;
ALTER TABLE users DROP COLUMN IF EXISTS password_hash;

DELETE FROM billing_schema_migrations WHERE version = '20260102090000';
COMMIT;
