-- Undoes 20260125010000_past_due_access.sql. What has lost its access while it is past due
-- gets it back with its next event.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE OR REPLACE FUNCTION billing_usage_subscription(
  p_organization_id uuid,
  p_period_start timestamptz,
  p_plan_tier text
) RETURNS text
  LANGUAGE sql STABLE SECURITY INVOKER PARALLEL SAFE
  RETURN (
    SELECT s.stripe_subscription_id
      FROM public.billing_subscriptions s
     WHERE s.organization_id = p_organization_id
       AND coalesce(s.stripe_created_at, s.current_period_start) <= p_period_start
       AND (s.ended_at IS NULL OR s.ended_at > p_period_start)
     ORDER BY s.status NOT IN ('unpaid', 'paused', 'incomplete') DESC,
              s.plan_tier IS NOT DISTINCT FROM p_plan_tier DESC,
              s.plan_tier IS NULL, s.stripe_created_at DESC, s.stripe_subscription_id DESC
     LIMIT 1);

DROP INDEX IF EXISTS billing_subscriptions_past_due_idx;
ALTER TABLE billing_subscriptions
  DROP COLUMN IF EXISTS past_due_since,
  DROP COLUMN IF EXISTS access_ends_at,
  DROP COLUMN IF EXISTS access_ended_at;
ALTER TABLE billing_invoices DROP COLUMN IF EXISTS first_failed_at;

DELETE FROM billing_schema_migrations WHERE version = '20260125010000';
COMMIT;
