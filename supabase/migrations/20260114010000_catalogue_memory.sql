-- What was ever sold: each price by its Stripe id, and each version of a plan. The
-- catalogue's file says what is sold today; running subscriptions keep what they
-- bought.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- A plan's terms as of a time. Versions never change; a change of the file makes
-- another one.
CREATE TABLE IF NOT EXISTS plan_versions (
  plan_tier text NOT NULL,
  version integer NOT NULL CHECK (version > 0),
  -- Of the terms: price, quotas, rates, features.
  digest text NOT NULL,
  -- Of what Stripe charges: versions that share it share their prices.
  billed_digest text NOT NULL,
  definition jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (plan_tier, version),
  UNIQUE (plan_tier, digest)
);

-- Each price by its id, which never moves; lookup keys do.
CREATE TABLE IF NOT EXISTS billing_prices (
  stripe_price_id text PRIMARY KEY,
  plan_tier text NOT NULL,
  -- The metric whose usage it charges; null: it is the plan's fee.
  metric text,
  -- The version it was first sold with; null: made outside of this service.
  version integer,
  currency text,
  recurring_interval text,
  recurring_interval_count integer,
  -- The fee, in minor units.
  unit_amount bigint,
  -- Of usage: the units that cost nothing, and the rate of each further one in the
  -- currency's major unit. Null: not known, since events do not show them.
  included numeric(24,4),
  overage_rate numeric(24,12),
  lookup_key text,
  -- As `plans sync` found it: the plan's product.
  stripe_product_id text,
  first_seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS billing_prices_product_idx ON billing_prices (stripe_product_id);
CREATE INDEX IF NOT EXISTS billing_prices_lookup_key_idx ON billing_prices (lookup_key);

-- Which prices a version is sold with. One price may serve several versions.
CREATE TABLE IF NOT EXISTS plan_version_prices (
  plan_tier text NOT NULL,
  version integer NOT NULL,
  stripe_price_id text NOT NULL,
  PRIMARY KEY (plan_tier, version, stripe_price_id)
);

ALTER TABLE plan_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan_versions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS plan_versions_owner ON plan_versions;
CREATE POLICY plan_versions_owner ON plan_versions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS plan_versions_worker ON plan_versions;
CREATE POLICY plan_versions_worker ON plan_versions TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT ON plan_versions TO billing_worker;

ALTER TABLE billing_prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_prices FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_prices_owner ON billing_prices;
CREATE POLICY billing_prices_owner ON billing_prices TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_prices_worker ON billing_prices;
CREATE POLICY billing_prices_worker ON billing_prices TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON billing_prices TO billing_worker;

ALTER TABLE plan_version_prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan_version_prices FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS plan_version_prices_owner ON plan_version_prices;
CREATE POLICY plan_version_prices_owner ON plan_version_prices TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS plan_version_prices_worker ON plan_version_prices;
CREATE POLICY plan_version_prices_worker ON plan_version_prices TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT ON plan_version_prices TO billing_worker;

-- The version that a subscription has. Null in rows of before: the oldest one.
ALTER TABLE billing_subscriptions ADD COLUMN IF NOT EXISTS plan_version integer;
-- What an item is for: the plan, and the metric whose usage it charges. Null: not
-- a price of the catalogue.
ALTER TABLE billing_subscription_items
  ADD COLUMN IF NOT EXISTS plan_tier text,
  ADD COLUMN IF NOT EXISTS metric text;
-- Null: no subscription; the plan is as the file says today.
ALTER TABLE organizations ADD COLUMN IF NOT EXISTS plan_version integer;
ALTER TABLE usage_quotas
  ADD COLUMN IF NOT EXISTS plan_version integer,
  ADD COLUMN IF NOT EXISTS currency text,
  ADD COLUMN IF NOT EXISTS plan_interval text,
  -- As in the file: "200%" or a quantity; null: the metric's.
  ADD COLUMN IF NOT EXISTS grace_max text;

-- What the mirror tells of prices: a subscription's plan is that of its only fee,
-- and metered prices have the fee's lookup key with the metric behind it.
INSERT INTO billing_prices (stripe_price_id, plan_tier, currency, recurring_interval,
                            recurring_interval_count, unit_amount, lookup_key)
SELECT DISTINCT ON (i.stripe_price_id)
       i.stripe_price_id, s.plan_tier, i.currency, i.recurring_interval,
       i.recurring_interval_count, i.unit_amount, i.lookup_key
  FROM billing_subscription_items i
  JOIN billing_subscriptions s
    ON s.organization_id = i.organization_id
   AND s.stripe_subscription_id = i.stripe_subscription_id
 WHERE s.plan_tier IS NOT NULL AND i.stripe_price_id IS NOT NULL
   AND i.usage_type IS DISTINCT FROM 'metered'
   AND NOT EXISTS (SELECT FROM billing_subscription_items o
                    WHERE o.organization_id = i.organization_id
                      AND o.stripe_subscription_id = i.stripe_subscription_id
                      AND o.stripe_price_id <> i.stripe_price_id
                      AND o.usage_type IS DISTINCT FROM 'metered')
 ORDER BY i.stripe_price_id, s.last_event_at DESC
ON CONFLICT DO NOTHING;

INSERT INTO billing_prices (stripe_price_id, plan_tier, metric, currency, recurring_interval,
                            recurring_interval_count, lookup_key)
SELECT DISTINCT ON (i.stripe_price_id)
       i.stripe_price_id, p.plan_tier, m.metric, i.currency, i.recurring_interval,
       i.recurring_interval_count, i.lookup_key
  FROM billing_subscription_items i
  CROSS JOIN (SELECT DISTINCT metric FROM usage_quotas) m
  JOIN billing_prices p ON p.metric IS NULL AND i.lookup_key = p.lookup_key || '_' || m.metric
 WHERE i.usage_type = 'metered' AND i.stripe_price_id IS NOT NULL
 ORDER BY i.stripe_price_id, p.plan_tier
ON CONFLICT DO NOTHING;

UPDATE billing_subscription_items i SET plan_tier = p.plan_tier, metric = p.metric
  FROM billing_prices p
 WHERE p.stripe_price_id = i.stripe_price_id AND i.plan_tier IS NULL;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260114010000', 'catalogue_memory') ON CONFLICT DO NOTHING;
COMMIT;
