-- Which subscription a metric's usage of a period belongs to, said once: reports, periods
-- that are over and changes of prices ask for it.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- The one that the quota counts for: by the plan that the organization has, whether it has
-- a price for the metric or not. One that began later has no part in the period.
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

REVOKE ALL ON FUNCTION billing_usage_subscription(uuid, timestamptz, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_usage_subscription(uuid, timestamptz, text)
  TO billing_app, billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120070000', 'usage_subscription') ON CONFLICT DO NOTHING;
COMMIT;
