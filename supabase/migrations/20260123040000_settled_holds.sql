-- Settled reservations stay out of the way of those that hold.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- Settled ones stay for weeks. What looks for those that hold is not to read them.
CREATE INDEX IF NOT EXISTS usage_reservations_held_idx
  ON usage_reservations (organization_id, metric, period_start) WHERE settled_at IS NULL;
CREATE INDEX IF NOT EXISTS usage_reservations_held_until_idx
  ON usage_reservations (expires_at) WHERE settled_at IS NULL;
DROP INDEX IF EXISTS usage_reservations_expires_idx;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260123040000', 'settled_holds') ON CONFLICT DO NOTHING;
COMMIT;
