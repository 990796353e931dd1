-- Undoes 20260130020100_bulk_action_tries.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

REVOKE DELETE ON webhook_bulk_actions FROM billing_worker;
DROP INDEX IF EXISTS webhook_bulk_actions_ended_idx;
ALTER TABLE webhook_bulk_actions
  DROP COLUMN IF EXISTS requested_by_key,
  DROP COLUMN IF EXISTS tries,
  DROP COLUMN IF EXISTS last_error;

DELETE FROM billing_schema_migrations WHERE version = '20260130020100';
COMMIT;
