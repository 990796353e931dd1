-- How an event came, and what was refused at the door.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- delivery: Stripe sent it; backfill: we fetched it.
ALTER TABLE webhook_events ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT 'delivery';
ALTER TABLE webhook_dead_letter_queue
  ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT 'delivery';

-- Deliveries that were refused, by reason and hour. Whoever finds the endpoint
-- may send to it, so nothing of what was sent is kept.
CREATE TABLE IF NOT EXISTS webhook_rejections (
  reason text NOT NULL,
  hour timestamptz NOT NULL,
  deliveries bigint NOT NULL CHECK (deliveries > 0),
  last_at timestamptz NOT NULL,
  PRIMARY KEY (reason, hour)
);
ALTER TABLE webhook_rejections ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_rejections FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_rejections_owner ON webhook_rejections;
CREATE POLICY webhook_rejections_owner ON webhook_rejections TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_rejections_worker ON webhook_rejections;
CREATE POLICY webhook_rejections_worker ON webhook_rejections TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_rejections TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103020000', 'webhook_sources') ON CONFLICT DO NOTHING;
COMMIT;
