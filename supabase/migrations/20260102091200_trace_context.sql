-- The trace that a delivery belongs to, so that its processing belongs to it, too.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- https://www.w3.org/TR/trace-context/#traceparent-header
ALTER TABLE webhook_events ADD COLUMN IF NOT EXISTS traceparent text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102091200', 'trace_context') ON CONFLICT DO NOTHING;
COMMIT;
