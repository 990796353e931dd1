-- Undoes 20260116020000_pending_changes.sql. Stripe's schedules stay as they are, and
-- are no longer shown.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS billing_subscription_schedules;
ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS stripe_schedule_id,
  DROP COLUMN IF EXISTS cancellation_comment,
  DROP COLUMN IF EXISTS cancellation_feedback,
  DROP COLUMN IF EXISTS cancellation_reason;

DELETE FROM billing_schema_migrations WHERE version = '20260116020000';
COMMIT;
