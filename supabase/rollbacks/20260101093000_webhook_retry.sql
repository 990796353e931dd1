-- Undoes 20260101093000_webhook_retry.sql. Dead letters were events of the inbox
-- before, and go back there, unprocessed.

SET lock_timeout TO '5s';
SET client_min_messages TO warning;
SET ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('webhook_dead_letter_queue') IS NOT NULL THEN
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
RESET ROLE;
