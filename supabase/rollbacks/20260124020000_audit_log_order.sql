-- Undoes 20260124020000_audit_log_order.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_audit_log_order_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260124020000';
COMMIT;
