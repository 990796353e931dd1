-- How large an event is, so that a batch takes as many as its memory holds
-- without reading them first. Null: stored by a program of before, or moved.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE webhook_events ADD COLUMN IF NOT EXISTS payload_bytes integer;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260110010000', 'payload_bytes') ON CONFLICT DO NOTHING;
COMMIT;
