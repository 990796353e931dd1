-- Undoes 20260107090000_pending_levels.sql. Programs of before count a level when
-- it is told, and so levels that wait for their time are counted here.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('usage_pending_levels') IS NOT NULL THEN
    UPDATE usage_totals t
       SET total = p.quantity, last_at = p.occurred_at, last_event_id = p.event_id
      FROM (SELECT DISTINCT ON (organization_id, metric, period_start) *
              FROM usage_pending_levels
             ORDER BY organization_id, metric, period_start, occurred_at DESC, event_id DESC) p
     WHERE t.organization_id = p.organization_id AND t.metric = p.metric
       AND t.period_start = p.period_start
       AND (t.last_at IS NULL OR t.last_at <= p.occurred_at);
  END IF;
END
$$;
DROP TABLE IF EXISTS usage_pending_levels;

DELETE FROM billing_schema_migrations WHERE version = '20260107090000';
COMMIT;
