-- Bulk actions: whose key asked, how often an event was tried in vain, and when they may go.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE webhook_bulk_actions
  -- The operators' key that asked.
  ADD COLUMN IF NOT EXISTS requested_by_key uuid,
  -- How often it was taken up without getting past the event that is next, and what was in the
  -- way.
  ADD COLUMN IF NOT EXISTS tries integer NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS last_error text;

-- Small as it is, the table has no large index to wait for.
CREATE INDEX IF NOT EXISTS webhook_bulk_actions_ended_idx
  ON webhook_bulk_actions (ended_at) WHERE ended_at IS NOT NULL;

GRANT DELETE ON webhook_bulk_actions TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130020100', 'bulk_action_tries') ON CONFLICT DO NOTHING;
COMMIT;
