-- Undoes 20260101091000_billing_audit_log.sql. The audit log is lost: back it up first
-- (`valuecanvas-billing audit export`).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP FUNCTION IF EXISTS
  log_billing_action(uuid, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text);
DROP FUNCTION IF EXISTS billing_audit_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text, timestamptz);
DROP TABLE IF EXISTS billing_audit_chain_heads;
DROP TABLE IF EXISTS billing_audit_personal_data;
DROP TABLE IF EXISTS billing_audit_log;
DROP FUNCTION IF EXISTS billing_audit_chain_heads_refuse_change();
DROP FUNCTION IF EXISTS billing_audit_log_refuse_change();

DELETE FROM billing_schema_migrations WHERE version = '20260101091000';
COMMIT;
