-- Stripe's objects, mirrored. They may arrive in any order, so none refers to
-- another by a foreign key; amounts are integers in the currency's minor unit.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- Which organization a Stripe customer belongs to. Keyed by the customer, which
-- makes a customer belong to one organization only.
CREATE TABLE IF NOT EXISTS billing_customers (
  stripe_customer_id text PRIMARY KEY CHECK (stripe_customer_id <> ''),
  organization_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS billing_customers_organization_idx
  ON billing_customers (organization_id);

CREATE TABLE IF NOT EXISTS billing_subscriptions (
  organization_id uuid NOT NULL,
  stripe_subscription_id text NOT NULL,
  stripe_customer_id text NOT NULL,
  -- Stripe's word; past_due also between a failed payment and Stripe's own
  -- update. stripe_status is what the last subscription event said.
  status text NOT NULL,
  stripe_status text NOT NULL,
  plan_tier text,
  currency text,
  current_period_start timestamptz,
  current_period_end timestamptz,
  billing_cycle_anchor timestamptz,
  billing_mode text,
  collection_method text,
  trial_start timestamptz,
  trial_end timestamptz,
  cancel_at timestamptz,
  cancel_at_period_end boolean NOT NULL DEFAULT false,
  canceled_at timestamptz,
  ended_at timestamptz,
  latest_invoice_id text,
  default_payment_method_id text,
  metadata jsonb NOT NULL DEFAULT '{}',
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_subscription_id)
);

CREATE TABLE IF NOT EXISTS billing_subscription_items (
  organization_id uuid NOT NULL,
  stripe_subscription_id text NOT NULL,
  stripe_subscription_item_id text NOT NULL,
  stripe_price_id text,
  stripe_product_id text,
  lookup_key text,
  usage_type text,
  unit_amount bigint,
  -- Stripe's decimal price, in minor units, for prices below one of them.
  unit_amount_decimal numeric,
  currency text,
  recurring_interval text,
  recurring_interval_count integer,
  quantity bigint,
  current_period_start timestamptz,
  current_period_end timestamptz,
  PRIMARY KEY (organization_id, stripe_subscription_id, stripe_subscription_item_id)
);

-- The newest payment outcome of each subscription, known before or after the
-- subscription itself.
CREATE TABLE IF NOT EXISTS billing_subscription_payments (
  organization_id uuid NOT NULL,
  stripe_subscription_id text NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('succeeded', 'failed')),
  billing_reason text,
  stripe_invoice_id text NOT NULL,
  last_event_at timestamptz NOT NULL,
  last_event_id text NOT NULL,
  PRIMARY KEY (organization_id, stripe_subscription_id)
);

CREATE TABLE IF NOT EXISTS billing_invoices (
  organization_id uuid NOT NULL,
  stripe_invoice_id text NOT NULL,
  stripe_customer_id text,
  stripe_subscription_id text,
  number text,
  status text,
  billing_reason text,
  collection_method text,
  currency text NOT NULL,
  subtotal_amount bigint NOT NULL,
  tax_amount bigint,
  total_amount bigint NOT NULL,
  amount_due bigint NOT NULL,
  amount_paid bigint NOT NULL,
  amount_remaining bigint NOT NULL,
  starting_balance bigint,
  ending_balance bigint,
  attempt_count integer NOT NULL DEFAULT 0,
  next_payment_attempt timestamptz,
  period_start timestamptz,
  period_end timestamptz,
  due_date timestamptz,
  finalized_at timestamptz,
  paid_at timestamptz,
  voided_at timestamptz,
  hosted_invoice_url text,
  invoice_pdf text,
  -- More lines than the event carried are with Stripe.
  has_more_items boolean NOT NULL DEFAULT false,
  metadata jsonb NOT NULL DEFAULT '{}',
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_invoice_id)
);
CREATE INDEX IF NOT EXISTS billing_invoices_created_idx
  ON billing_invoices (organization_id, stripe_created_at DESC);

CREATE TABLE IF NOT EXISTS billing_invoice_items (
  organization_id uuid NOT NULL,
  stripe_invoice_id text NOT NULL,
  stripe_line_item_id text NOT NULL,
  position integer NOT NULL,
  description text,
  amount bigint NOT NULL,
  currency text NOT NULL,
  quantity bigint,
  proration boolean NOT NULL,
  stripe_price_id text,
  stripe_subscription_id text,
  stripe_subscription_item_id text,
  period_start timestamptz,
  period_end timestamptz,
  PRIMARY KEY (organization_id, stripe_invoice_id, stripe_line_item_id)
);

CREATE TABLE IF NOT EXISTS billing_charges (
  organization_id uuid NOT NULL,
  stripe_charge_id text NOT NULL,
  stripe_customer_id text,
  stripe_invoice_id text,
  stripe_payment_intent_id text,
  stripe_payment_method_id text,
  status text NOT NULL,
  currency text NOT NULL,
  amount bigint NOT NULL,
  amount_captured bigint NOT NULL,
  amount_refunded bigint NOT NULL,
  paid boolean NOT NULL,
  captured boolean NOT NULL,
  refunded boolean NOT NULL,
  disputed boolean NOT NULL,
  failure_code text,
  failure_message text,
  outcome_type text,
  outcome_network_status text,
  outcome_reason text,
  outcome_risk_level text,
  outcome_seller_message text,
  card_brand text,
  card_last4 text,
  description text,
  receipt_url text,
  metadata jsonb NOT NULL DEFAULT '{}',
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_charge_id)
);
CREATE INDEX IF NOT EXISTS billing_charges_invoice_idx
  ON billing_charges (organization_id, stripe_invoice_id);

CREATE TABLE IF NOT EXISTS billing_payment_methods (
  organization_id uuid NOT NULL,
  stripe_payment_method_id text NOT NULL,
  stripe_customer_id text,
  status text NOT NULL CHECK (status IN ('attached', 'detached')),
  type text NOT NULL,
  brand text,
  last4 text,
  exp_month smallint,
  exp_year smallint,
  funding text,
  country text,
  metadata jsonb NOT NULL DEFAULT '{}',
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_payment_method_id)
);
-- A detached payment method no longer names its customer.
CREATE INDEX IF NOT EXISTS billing_payment_methods_stripe_idx
  ON billing_payment_methods (stripe_payment_method_id);

-- What an operator or the customer should hear about.
CREATE TABLE IF NOT EXISTS billing_alerts (
  organization_id uuid NOT NULL,
  kind text NOT NULL,
  -- What makes it one alert: the event, or the object where one is enough.
  alert_key text NOT NULL,
  resource_type text NOT NULL,
  resource_id text NOT NULL,
  message text NOT NULL,
  occurred_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, kind, alert_key)
);

-- Which events reached an organization's state, and how: written in the same
-- transaction as their effects.
CREATE TABLE IF NOT EXISTS billing_applied_events (
  organization_id uuid NOT NULL,
  stripe_event_id text NOT NULL,
  event_type text NOT NULL,
  resource_id text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_event_id)
);

ALTER TABLE billing_customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_customers FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_customers_owner ON billing_customers;
CREATE POLICY billing_customers_owner ON billing_customers TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_customers_select ON billing_customers;
CREATE POLICY billing_customers_select ON billing_customers FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_customers_worker ON billing_customers;
CREATE POLICY billing_customers_worker ON billing_customers TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_customers TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_customers TO billing_worker;

ALTER TABLE billing_subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_subscriptions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_subscriptions_owner ON billing_subscriptions;
CREATE POLICY billing_subscriptions_owner ON billing_subscriptions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_subscriptions_select ON billing_subscriptions;
CREATE POLICY billing_subscriptions_select ON billing_subscriptions FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_subscriptions_worker ON billing_subscriptions;
CREATE POLICY billing_subscriptions_worker ON billing_subscriptions TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_subscriptions TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_subscriptions TO billing_worker;

ALTER TABLE billing_subscription_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_subscription_items FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_subscription_items_owner ON billing_subscription_items;
CREATE POLICY billing_subscription_items_owner ON billing_subscription_items TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_subscription_items_select ON billing_subscription_items;
CREATE POLICY billing_subscription_items_select ON billing_subscription_items FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_subscription_items_worker ON billing_subscription_items;
CREATE POLICY billing_subscription_items_worker ON billing_subscription_items TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_subscription_items TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_subscription_items TO billing_worker;

ALTER TABLE billing_subscription_payments ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_subscription_payments FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_subscription_payments_owner ON billing_subscription_payments;
CREATE POLICY billing_subscription_payments_owner ON billing_subscription_payments TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_subscription_payments_select ON billing_subscription_payments;
CREATE POLICY billing_subscription_payments_select ON billing_subscription_payments FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_subscription_payments_worker ON billing_subscription_payments;
CREATE POLICY billing_subscription_payments_worker ON billing_subscription_payments TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_subscription_payments TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_subscription_payments TO billing_worker;

ALTER TABLE billing_invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_invoices FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_invoices_owner ON billing_invoices;
CREATE POLICY billing_invoices_owner ON billing_invoices TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_invoices_select ON billing_invoices;
CREATE POLICY billing_invoices_select ON billing_invoices FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_invoices_worker ON billing_invoices;
CREATE POLICY billing_invoices_worker ON billing_invoices TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_invoices TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_invoices TO billing_worker;

ALTER TABLE billing_invoice_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_invoice_items FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_invoice_items_owner ON billing_invoice_items;
CREATE POLICY billing_invoice_items_owner ON billing_invoice_items TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_invoice_items_select ON billing_invoice_items;
CREATE POLICY billing_invoice_items_select ON billing_invoice_items FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_invoice_items_worker ON billing_invoice_items;
CREATE POLICY billing_invoice_items_worker ON billing_invoice_items TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_invoice_items TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_invoice_items TO billing_worker;

ALTER TABLE billing_charges ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_charges FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_charges_owner ON billing_charges;
CREATE POLICY billing_charges_owner ON billing_charges TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_charges_select ON billing_charges;
CREATE POLICY billing_charges_select ON billing_charges FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_charges_worker ON billing_charges;
CREATE POLICY billing_charges_worker ON billing_charges TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_charges TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_charges TO billing_worker;

ALTER TABLE billing_payment_methods ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_payment_methods FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_payment_methods_owner ON billing_payment_methods;
CREATE POLICY billing_payment_methods_owner ON billing_payment_methods TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_payment_methods_select ON billing_payment_methods;
CREATE POLICY billing_payment_methods_select ON billing_payment_methods FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_payment_methods_worker ON billing_payment_methods;
CREATE POLICY billing_payment_methods_worker ON billing_payment_methods TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_payment_methods TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_payment_methods TO billing_worker;

ALTER TABLE billing_alerts ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_alerts FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_alerts_owner ON billing_alerts;
CREATE POLICY billing_alerts_owner ON billing_alerts TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_alerts_select ON billing_alerts;
CREATE POLICY billing_alerts_select ON billing_alerts FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_alerts_worker ON billing_alerts;
CREATE POLICY billing_alerts_worker ON billing_alerts TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_alerts TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_alerts TO billing_worker;

ALTER TABLE billing_applied_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_applied_events FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_applied_events_owner ON billing_applied_events;
CREATE POLICY billing_applied_events_owner ON billing_applied_events TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_applied_events_select ON billing_applied_events;
CREATE POLICY billing_applied_events_select ON billing_applied_events FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_applied_events_worker ON billing_applied_events;
CREATE POLICY billing_applied_events_worker ON billing_applied_events TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_applied_events TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_applied_events TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101090200', 'billing_mirror') ON CONFLICT DO NOTHING;
COMMIT;
