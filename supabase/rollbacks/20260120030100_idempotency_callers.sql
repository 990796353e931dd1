-- Undoes 20260120030100_idempotency_callers.sql. The requests of service keys and operators
-- that are sent again are carried out again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DELETE FROM request_idempotency
 WHERE organization_id = '00000000-0000-0000-0000-000000000000';
ALTER TABLE request_idempotency
  DROP CONSTRAINT IF EXISTS request_idempotency_idempotency_key_check,
  ADD CONSTRAINT request_idempotency_idempotency_key_check
    CHECK (length(idempotency_key) BETWEEN 1 AND 255);

DELETE FROM billing_schema_migrations WHERE version = '20260120030100';
COMMIT;
