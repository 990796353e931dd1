-- Add-ons: items beside the plan's, whose quotas and features add up with it.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- The add-ons of the catalogue's file as it was last read, so that a change of the file can
-- be shown.
CREATE TABLE IF NOT EXISTS catalogue_addons (
  id text PRIMARY KEY,
  definition jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE catalogue_addons ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalogue_addons FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS catalogue_addons_owner ON catalogue_addons;
CREATE POLICY catalogue_addons_owner ON catalogue_addons TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS catalogue_addons_worker ON catalogue_addons;
CREATE POLICY catalogue_addons_worker ON catalogue_addons TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON catalogue_addons TO billing_worker;

-- The add-on that a price is of, which then is of no plan: its plan_tier is empty.
ALTER TABLE billing_prices ADD COLUMN IF NOT EXISTS addon text;
-- The add-on that an item pays for.
ALTER TABLE billing_subscription_items ADD COLUMN IF NOT EXISTS addon text;
-- How many of each add-on, by its id. Null in rows of before: none.
ALTER TABLE billing_subscriptions ADD COLUMN IF NOT EXISTS plan_addons jsonb;
ALTER TABLE organizations
  ADD COLUMN IF NOT EXISTS plan_addons jsonb NOT NULL DEFAULT '{}';
-- What add-ons have added to the plan's quota, which `quota` includes.
ALTER TABLE usage_quotas
  ADD COLUMN IF NOT EXISTS added_quota numeric(24,4) NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS added_unlimited boolean NOT NULL DEFAULT false;
-- A limit that an add-on has lifted keeps the plan's rate, by which an operator's quota is
-- billed. Rows of before were held to more: they need no check.
ALTER TABLE usage_quotas
  DROP CONSTRAINT IF EXISTS usage_quotas_check1,
  DROP CONSTRAINT IF EXISTS usage_quotas_rate,
  ADD CONSTRAINT usage_quotas_rate CHECK (
    (over_limit = 'overage' AND (NOT unlimited OR added_unlimited))
      = (overage_rate IS NOT NULL)) NOT VALID;
-- The same as of the kept terms.
ALTER TABLE usage_totals
  ADD COLUMN IF NOT EXISTS kept_added_quota numeric(24,4),
  ADD COLUMN IF NOT EXISTS kept_added_unlimited boolean;

CREATE OR REPLACE VIEW effective_usage_quotas WITH (security_invoker = true) AS
  SELECT q.organization_id, q.metric, q.plan_tier, q.plan_interval, q.currency, q.grace_max,
         q.overage_rate,
         CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
         coalesce(v.unlimited, q.unlimited) AS unlimited,
         coalesce(o.over_limit, q.over_limit) AS over_limit,
         -- What is let in. While a change to fewer seats is under way, no more than those are.
         CASE WHEN v.metric IS NULL THEN least(q.quota, q.seats_held) ELSE v.quota END
           AS admitted_quota,
         coalesce(o.over_limit, CASE WHEN q.seats_held IS NULL THEN q.over_limit ELSE 'hard' END)
           AS admitted_over_limit,
         v.metric IS NOT NULL AS overridden,
         o.over_limit AS over_limit_override,
         v.updated_at AS overridden_at,
         greatest(q.updated_at, v.updated_at) AS changed_at,
         -- The plan's alone, which Stripe's price includes.
         (q.quota - q.added_quota)::numeric(24,4) AS plan_quota
    FROM public.usage_quotas q
    LEFT JOIN public.usage_quota_overrides v
      ON v.organization_id = q.organization_id AND v.metric = q.metric
   CROSS JOIN LATERAL (
     -- An operator's overage counts for nothing where the plan has no rate, as after a
     -- change of plan: it would be free use.
     SELECT CASE WHEN v.over_limit <> 'overage' OR q.overage_rate IS NOT NULL
                 THEN v.over_limit END AS over_limit) o;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260121010000', 'addons') ON CONFLICT DO NOTHING;
COMMIT;
