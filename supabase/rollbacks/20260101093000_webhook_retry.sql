-- Undoes 20260101093000_webhook_retry.sql. Dead letters were events of the inbox
-- before, and go back there, unprocessed.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('webhook_dead_letter_queue') IS NOT NULL THEN
    -- In the order in which processing takes them. An event that becomes a
    -- dead letter between the copy and the drop would be lost.
    LOCK TABLE webhook_events, webhook_dead_letter_queue IN ACCESS EXCLUSIVE MODE;
    INSERT INTO webhook_events (bucket, stripe_event_id, event_type, api_version, livemode,
                                account, event_created_at, payload, received_at, organization_id)
      SELECT bucket, stripe_event_id, event_type, api_version, livemode,
             account, event_created_at, payload, received_at, organization_id
        FROM webhook_dead_letter_queue
      ON CONFLICT DO NOTHING;
  END IF;
END
$$;
DROP TABLE IF EXISTS billing_job_runs;
DROP TABLE IF EXISTS webhook_dead_letter_queue;
DROP INDEX IF EXISTS webhook_events_waiting_idx;
DROP INDEX IF EXISTS webhook_events_due_idx;
ALTER TABLE webhook_events
  DROP COLUMN IF EXISTS lease_expires_at,
  DROP COLUMN IF EXISTS lease_id,
  DROP COLUMN IF EXISTS waiting_for_customer_id,
  DROP COLUMN IF EXISTS attempts,
  DROP COLUMN IF EXISTS error_message,
  DROP COLUMN IF EXISTS next_retry_at,
  DROP COLUMN IF EXISTS retry_count;

DELETE FROM billing_schema_migrations WHERE version = '20260101093000';
COMMIT;
