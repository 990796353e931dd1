-- Undoes 20260101091000_billing_audit_log.sql. The audit log is lost: back it up first
-- (`valuecanvas-billing audit export`).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP FUNCTION IF EXISTS
  log_billing_action(uuid, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text);
DO $$
BEGIN
  -- Its argument type goes with the table, so it is looked up by its name.
  EXECUTE coalesce((SELECT 'DROP FUNCTION ' || oid::regprocedure
                      FROM pg_catalog.pg_proc
                     WHERE proname = 'billing_audit_entry_hash'
                       AND pronamespace = 'public'::regnamespace), 'SELECT');
END
$$;
DROP TABLE IF EXISTS billing_audit_chain_heads;
DROP TABLE IF EXISTS billing_audit_log;
DROP FUNCTION IF EXISTS billing_audit_chain_heads_refuse_change();
DROP FUNCTION IF EXISTS billing_audit_log_refuse_change();

DELETE FROM billing_schema_migrations WHERE version = '20260101091000';
COMMIT;
