-- The idempotency keys of callers who belong to no organization, which are service keys and
-- operators, are each caller's own: they are kept behind its id.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- A uuid, a space, and the key.
ALTER TABLE request_idempotency
  DROP CONSTRAINT IF EXISTS request_idempotency_idempotency_key_check,
  ADD CONSTRAINT request_idempotency_idempotency_key_check
    CHECK (length(idempotency_key) BETWEEN 1 AND 292);

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120030100', 'idempotency_callers') ON CONFLICT DO NOTHING;
COMMIT;
