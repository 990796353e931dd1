-- Undoes 20260110010000_payload_bytes.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS webhook_events DROP COLUMN IF EXISTS payload_bytes;

DELETE FROM billing_schema_migrations WHERE version = '20260110010000';
COMMIT;
