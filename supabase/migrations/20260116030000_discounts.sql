-- Discounts with their coupons' terms, what they and taxes are on invoices and
-- their lines, and where a customer is taxed.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- What is known of each discount that Stripe has shown. A discount's coupon and
-- its terms never change; a coupon's name and a discount's end may.
CREATE TABLE IF NOT EXISTS billing_discounts (
  organization_id uuid NOT NULL,
  stripe_discount_id text NOT NULL CHECK (stripe_discount_id <> ''),
  stripe_customer_id text,
  -- What it belongs to: an item, a subscription, else the customer.
  stripe_subscription_id text,
  stripe_subscription_item_id text,
  stripe_coupon_id text,
  stripe_promotion_code_id text,
  -- As customers type it.
  promotion_code text,
  coupon_name text,
  percent_off numeric,
  -- In the currency's minor unit.
  amount_off bigint,
  currency text,
  -- Stripe's word: once, repeating or forever. Null until the terms are known.
  duration text,
  duration_in_months integer,
  starts_at timestamptz,
  ends_at timestamptz,
  deleted_at timestamptz,
  -- When it, and its terms, were shown last.
  observed_at timestamptz NOT NULL,
  terms_at timestamptz,
  -- When Stripe is to be asked for the terms; null if they are known, or gone.
  terms_due_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_discount_id)
);
CREATE INDEX IF NOT EXISTS billing_discounts_terms_due_idx ON billing_discounts (terms_due_at)
  WHERE terms_due_at IS NOT NULL;

ALTER TABLE billing_discounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_discounts FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_discounts_owner ON billing_discounts;
CREATE POLICY billing_discounts_owner ON billing_discounts TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_discounts_select ON billing_discounts;
CREATE POLICY billing_discounts_select ON billing_discounts FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_discounts_worker ON billing_discounts;
CREATE POLICY billing_discounts_worker ON billing_discounts TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_discounts TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_discounts TO billing_worker;

-- The discounts in force, in the order in which they apply.
ALTER TABLE billing_subscriptions ADD COLUMN IF NOT EXISTS discount_ids text[] NOT NULL DEFAULT '{}';
ALTER TABLE billing_subscription_items ADD COLUMN IF NOT EXISTS discount_ids text[] NOT NULL DEFAULT '{}';
-- Null until an event or an answer of Stripe shows the customer.
ALTER TABLE billing_customers ADD COLUMN IF NOT EXISTS discount_ids text[];
-- Whether the address says enough to be taxed by; null until the customer is shown.
ALTER TABLE billing_customers ADD COLUMN IF NOT EXISTS tax_located boolean;
ALTER TABLE billing_customers ADD COLUMN IF NOT EXISTS tax_country text;

-- In the currency's minor unit. Included taxes are part of the line's amount.
ALTER TABLE billing_invoices ADD COLUMN IF NOT EXISTS discount_amount bigint;
ALTER TABLE billing_invoices ADD COLUMN IF NOT EXISTS included_tax_amount bigint;
ALTER TABLE billing_invoice_items ADD COLUMN IF NOT EXISTS discount_amount bigint NOT NULL DEFAULT 0;
ALTER TABLE billing_invoice_items ADD COLUMN IF NOT EXISTS tax_amount bigint NOT NULL DEFAULT 0;
ALTER TABLE billing_invoice_items ADD COLUMN IF NOT EXISTS included_tax_amount bigint NOT NULL DEFAULT 0;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260116030000', 'discounts') ON CONFLICT DO NOTHING;
COMMIT;
