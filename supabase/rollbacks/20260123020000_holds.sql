-- Undoes 20260123020000_holds.sql. What the product holds is let go; uses that were taken back
-- stay so.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('usage_reservations') IS NOT NULL
     AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'usage_reservations'::regclass
                    AND attname = 'name' AND NOT attisdropped) THEN
    WITH gone AS (
      DELETE FROM usage_reservations WHERE name IS NOT NULL
      RETURNING organization_id, metric, period_start, quantity
    ), sums AS (
      SELECT organization_id, metric, period_start, sum(quantity) AS quantity FROM gone
       GROUP BY organization_id, metric, period_start
    )
    UPDATE usage_totals t SET reserved = greatest(t.reserved - s.quantity, 0)
      FROM sums s
     WHERE t.organization_id = s.organization_id AND t.metric = s.metric
       AND t.period_start = s.period_start;
  END IF;
END
$$;
DROP INDEX IF EXISTS usage_reservations_settled_idx;
ALTER TABLE IF EXISTS usage_reservations
  DROP COLUMN IF EXISTS name,
  DROP COLUMN IF EXISTS held,
  DROP COLUMN IF EXISTS settled_at,
  DROP COLUMN IF EXISTS outcome,
  DROP COLUMN IF EXISTS used,
  DROP COLUMN IF EXISTS counted,
  DROP COLUMN IF EXISTS refusal;
ALTER TABLE IF EXISTS usage_events
  DROP COLUMN IF EXISTS taken_back,
  DROP COLUMN IF EXISTS taken_back_at;

DELETE FROM billing_schema_migrations WHERE version = '20260123020000';
COMMIT;
