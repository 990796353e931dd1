-- What Stripe's other events tell of: deleted customers, refunds, disputes, which
-- invoice a charge paid, checkout sessions, deleted drafts; and what lists that
-- were cut short leave open.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- What events say of the customer itself. A row is there from the moment that
-- the customer is ours, and has a version once an event was about it.
ALTER TABLE billing_customers
  ADD COLUMN IF NOT EXISTS deleted_at timestamptz,
  ADD COLUMN IF NOT EXISTS delinquent boolean,
  ADD COLUMN IF NOT EXISTS currency text,
  ADD COLUMN IF NOT EXISTS default_payment_method_id text,
  ADD COLUMN IF NOT EXISTS last_event_at timestamptz,
  ADD COLUMN IF NOT EXISTS last_event_rank smallint,
  ADD COLUMN IF NOT EXISTS last_event_id text,
  ADD COLUMN IF NOT EXISTS tied_event_ids text[];

ALTER TABLE billing_subscriptions
  -- Stripe's word for a change that waits for its payment.
  ADD COLUMN IF NOT EXISTS pending_update jsonb,
  -- More items than these are with Stripe.
  ADD COLUMN IF NOT EXISTS has_more_items boolean NOT NULL DEFAULT false;

ALTER TABLE billing_invoices
  -- Since when Stripe is to be asked for the lines that the event left out.
  ADD COLUMN IF NOT EXISTS ask_again_since timestamptz;
CREATE INDEX IF NOT EXISTS billing_invoices_ask_again_idx
  ON billing_invoices (ask_again_since) WHERE ask_again_since IS NOT NULL;

-- Before 2019-12-03 lines shared their ids with each other: it is the position
-- that tells them apart.
DO $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
     WHERE i.indrelid = 'billing_invoice_items'::regclass AND i.indisprimary AND a.attname = 'position'
  ) THEN
    CREATE UNIQUE INDEX billing_invoice_items_position_idx
      ON billing_invoice_items (organization_id, stripe_invoice_id, position);
    ALTER TABLE billing_invoice_items
      DROP CONSTRAINT billing_invoice_items_pkey,
      ADD CONSTRAINT billing_invoice_items_pkey PRIMARY KEY USING INDEX billing_invoice_items_position_idx;
  END IF;
END
$$;

-- A dispute names its charge only, a payment its invoice only.
CREATE INDEX IF NOT EXISTS billing_charges_stripe_idx ON billing_charges (stripe_charge_id);
CREATE INDEX IF NOT EXISTS billing_charges_payment_intent_idx
  ON billing_charges (organization_id, stripe_payment_intent_id);
CREATE INDEX IF NOT EXISTS billing_invoices_stripe_idx ON billing_invoices (stripe_invoice_id);

CREATE TABLE IF NOT EXISTS billing_disputes (
  organization_id uuid NOT NULL,
  stripe_dispute_id text NOT NULL,
  stripe_charge_id text NOT NULL,
  stripe_payment_intent_id text,
  status text NOT NULL,
  reason text,
  currency text NOT NULL,
  amount bigint NOT NULL,
  evidence_due_by timestamptz,
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
  PRIMARY KEY (organization_id, stripe_dispute_id)
);
CREATE INDEX IF NOT EXISTS billing_disputes_charge_idx
  ON billing_disputes (organization_id, stripe_charge_id);

-- Which payment paid which invoice: since 2025-03-31 a charge does not say it.
CREATE TABLE IF NOT EXISTS billing_invoice_payments (
  organization_id uuid NOT NULL,
  stripe_invoice_payment_id text NOT NULL,
  stripe_invoice_id text NOT NULL,
  stripe_payment_intent_id text,
  stripe_charge_id text,
  status text,
  currency text,
  amount_paid bigint,
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_invoice_payment_id)
);
CREATE INDEX IF NOT EXISTS billing_invoice_payments_intent_idx
  ON billing_invoice_payments (organization_id, stripe_payment_intent_id);
CREATE INDEX IF NOT EXISTS billing_invoice_payments_charge_idx
  ON billing_invoice_payments (organization_id, stripe_charge_id);

CREATE TABLE IF NOT EXISTS billing_checkout_sessions (
  organization_id uuid NOT NULL,
  stripe_checkout_session_id text NOT NULL,
  stripe_customer_id text,
  stripe_subscription_id text,
  stripe_invoice_id text,
  stripe_payment_intent_id text,
  client_reference_id text,
  mode text,
  status text,
  payment_status text,
  currency text,
  total_amount bigint,
  expires_at timestamptz,
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
  PRIMARY KEY (organization_id, stripe_checkout_session_id)
);

-- Drafts that were deleted: an event of before that comes late makes no row of
-- them again.
CREATE TABLE IF NOT EXISTS billing_deleted_invoices (
  organization_id uuid NOT NULL,
  stripe_invoice_id text NOT NULL,
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  PRIMARY KEY (organization_id, stripe_invoice_id)
);

-- Processed events that were nobody's, by the customer or object that would say
-- whose they are: once it does, they are processed again. They are no
-- organization's, and have the nil UUID for it.
CREATE TABLE IF NOT EXISTS webhook_unclaimed_events (
  organization_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  waiting_for text NOT NULL,
  stripe_event_id text NOT NULL,
  bucket smallint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, waiting_for, stripe_event_id)
);

ALTER TABLE billing_disputes ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_disputes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_disputes_owner ON billing_disputes;
CREATE POLICY billing_disputes_owner ON billing_disputes TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_disputes_select ON billing_disputes;
CREATE POLICY billing_disputes_select ON billing_disputes FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_disputes_worker ON billing_disputes;
CREATE POLICY billing_disputes_worker ON billing_disputes TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_disputes TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_disputes TO billing_worker;

ALTER TABLE billing_invoice_payments ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_invoice_payments FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_invoice_payments_owner ON billing_invoice_payments;
CREATE POLICY billing_invoice_payments_owner ON billing_invoice_payments TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_invoice_payments_select ON billing_invoice_payments;
CREATE POLICY billing_invoice_payments_select ON billing_invoice_payments FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_invoice_payments_worker ON billing_invoice_payments;
CREATE POLICY billing_invoice_payments_worker ON billing_invoice_payments TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_invoice_payments TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_invoice_payments TO billing_worker;

ALTER TABLE billing_checkout_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_checkout_sessions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_checkout_sessions_owner ON billing_checkout_sessions;
CREATE POLICY billing_checkout_sessions_owner ON billing_checkout_sessions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_checkout_sessions_select ON billing_checkout_sessions;
CREATE POLICY billing_checkout_sessions_select ON billing_checkout_sessions FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_checkout_sessions_worker ON billing_checkout_sessions;
CREATE POLICY billing_checkout_sessions_worker ON billing_checkout_sessions TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_checkout_sessions TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_checkout_sessions TO billing_worker;

ALTER TABLE billing_deleted_invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_deleted_invoices FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_deleted_invoices_owner ON billing_deleted_invoices;
CREATE POLICY billing_deleted_invoices_owner ON billing_deleted_invoices TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_deleted_invoices_select ON billing_deleted_invoices;
CREATE POLICY billing_deleted_invoices_select ON billing_deleted_invoices FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_deleted_invoices_worker ON billing_deleted_invoices;
CREATE POLICY billing_deleted_invoices_worker ON billing_deleted_invoices TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_deleted_invoices TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_deleted_invoices TO billing_worker;

ALTER TABLE webhook_unclaimed_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_unclaimed_events FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_unclaimed_events_owner ON webhook_unclaimed_events;
CREATE POLICY webhook_unclaimed_events_owner ON webhook_unclaimed_events TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_unclaimed_events_worker ON webhook_unclaimed_events;
CREATE POLICY webhook_unclaimed_events_worker ON webhook_unclaimed_events TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_unclaimed_events TO billing_worker;

-- A deleted draft leaves the list.
GRANT DELETE ON billing_invoices TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103030000', 'other_stripe_events') ON CONFLICT DO NOTHING;
COMMIT;
