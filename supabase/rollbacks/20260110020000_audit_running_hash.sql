-- Undoes 20260110020000_audit_running_hash.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP AGGREGATE IF EXISTS billing_audit_running_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz);
DROP FUNCTION IF EXISTS billing_audit_next_entry_hash(
  bytea, bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz);

DELETE FROM billing_schema_migrations WHERE version = '20260110020000';
COMMIT;
