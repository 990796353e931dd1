-- Undoes 20260123010000_outbox.sql. Endpoints, and what was not yet sent, are lost.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  -- Alerts that were handed over and did not arrive are sent as before.
  IF to_regclass('usage_alerts') IS NOT NULL THEN
    UPDATE usage_alerts SET next_attempt_at = now()
     WHERE next_attempt_at = 'infinity' AND delivered_at IS NULL AND failed_at IS NULL;
  END IF;
END
$$;
DROP TABLE IF EXISTS outbound_lanes;
DROP TABLE IF EXISTS outbound_deliveries;
DROP TABLE IF EXISTS outbound_events;
DROP TABLE IF EXISTS outbound_streams;
DROP TABLE IF EXISTS outbound_changes;
DROP TABLE IF EXISTS outbound_endpoints;

DELETE FROM billing_schema_migrations WHERE version = '20260123010000';
COMMIT;
