-- What an organization may do while its subscription is past due, and since when it is.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- The first time that its payment failed, whatever came later. Null if no event told.
ALTER TABLE billing_invoices ADD COLUMN IF NOT EXISTS first_failed_at timestamptz;

ALTER TABLE billing_subscriptions
  -- The first failure of what is still unpaid; null unless it is past due.
  ADD COLUMN IF NOT EXISTS past_due_since timestamptz,
  -- When `[recovery] past_due_access` ends what it grants; null: not by itself.
  ADD COLUMN IF NOT EXISTS access_ends_at timestamptz,
  -- Set while it is past due and grants nothing any more.
  ADD COLUMN IF NOT EXISTS access_ended_at timestamptz;

DO $$ BEGIN
  IF pg_relation_size('billing_subscriptions') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_subscriptions_past_due_idx
      ON billing_subscriptions (organization_id)
      WHERE status = 'past_due' OR access_ended_at IS NOT NULL;
  END IF;
END $$;

-- As in 20260120070000: one that grants nothing counts after those that do.
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
     ORDER BY (s.status NOT IN ('unpaid', 'paused', 'incomplete')
               AND s.access_ended_at IS NULL) DESC,
              s.plan_tier IS NOT DISTINCT FROM p_plan_tier DESC,
              s.plan_tier IS NULL, s.stripe_created_at DESC, s.stripe_subscription_id DESC
     LIMIT 1);

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260125010000', 'past_due_access') ON CONFLICT DO NOTHING;
COMMIT;
