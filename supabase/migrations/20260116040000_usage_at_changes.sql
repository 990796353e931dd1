-- Usage when the price that charges it changes within a billing period: what was
-- over the quota is charged then, once, and counts no more afterwards.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE usage_totals
  -- What changes of plan within the period add to its quota: the units that they
  -- charged, or, where quotas are prorated, the difference to the prorated one.
  ADD COLUMN IF NOT EXISTS quota_adjustment numeric(24,4) NOT NULL DEFAULT 0,
  -- Since when Stripe counts the period's usage at the price of today; null: since
  -- the period began. `reported` is what was reported since.
  ADD COLUMN IF NOT EXISTS metered_since timestamptz;

-- Usage over a quota that was charged because its price was removed.
CREATE TABLE IF NOT EXISTS usage_charges (
  organization_id uuid NOT NULL,
  -- Of the change.
  id uuid NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  stripe_customer_id text NOT NULL,
  stripe_subscription_id text NOT NULL,
  -- The price that was removed.
  stripe_price_id text NOT NULL,
  -- Whole units over the quota.
  units numeric(24,4) NOT NULL CHECK (units > 0),
  -- For one unit, in the currency's major unit.
  overage_rate numeric(24,12) NOT NULL CHECK (overage_rate >= 0),
  -- In the minor unit.
  amount bigint NOT NULL CHECK (amount >= 0),
  currency text NOT NULL,
  changed_at timestamptz NOT NULL,
  -- change: on the invoice of our change; stripe: by Stripe itself, in flexible
  -- billing; item: by an invoice item that this service adds.
  charged_by text NOT NULL CHECK (charged_by IN ('change', 'stripe', 'item')),
  stripe_invoice_item_id text,
  -- When Stripe may first have been asked for the invoice item.
  attempted_at timestamptz,
  error_message text,
  -- When Stripe last refused the invoice item, for example since the customer is gone.
  refused_at timestamptz,
  -- Null: the invoice item is still to be made.
  charged_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id, metric)
);
CREATE INDEX IF NOT EXISTS usage_charges_open_idx ON usage_charges (created_at)
  WHERE charged_at IS NULL;

ALTER TABLE usage_charges ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_charges FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_charges_owner ON usage_charges;
CREATE POLICY usage_charges_owner ON usage_charges TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_charges_select ON usage_charges;
CREATE POLICY usage_charges_select ON usage_charges FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_charges_worker ON usage_charges;
CREATE POLICY usage_charges_worker ON usage_charges TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_charges TO billing_app;
GRANT SELECT, INSERT, UPDATE ON usage_charges TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260116040000', 'usage_at_changes') ON CONFLICT DO NOTHING;
COMMIT;
