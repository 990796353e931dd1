-- Refunds, which may fail after they had succeeded: the money is not with the customer, and
-- a charge no longer counts it.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS billing_refunds (
  organization_id uuid NOT NULL,
  stripe_refund_id text NOT NULL,
  stripe_charge_id text,
  stripe_payment_intent_id text,
  status text NOT NULL,
  reason text,
  failure_reason text,
  currency text NOT NULL,
  amount bigint NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  stripe_created_at timestamptz,
  -- The event that last wrote this row, and all events that share its place
  -- in the order: together they decide whether another event is newer.
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_refund_id)
);
CREATE INDEX IF NOT EXISTS billing_refunds_charge_idx
  ON billing_refunds (organization_id, stripe_charge_id);

-- What the charge's own event said was refunded, and which event that is, where refunds
-- have failed since and amount_refunded is less.
ALTER TABLE billing_charges
  ADD COLUMN IF NOT EXISTS amount_refunded_told bigint,
  ADD COLUMN IF NOT EXISTS refunds_told_by text;

ALTER TABLE billing_refunds ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_refunds FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_refunds_owner ON billing_refunds;
CREATE POLICY billing_refunds_owner ON billing_refunds TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_refunds_select ON billing_refunds;
CREATE POLICY billing_refunds_select ON billing_refunds FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_refunds_worker ON billing_refunds;
CREATE POLICY billing_refunds_worker ON billing_refunds TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_refunds TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_refunds TO billing_worker;

-- A link to a customer can be taken back.
GRANT DELETE ON billing_customers TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120020000', 'refunds') ON CONFLICT DO NOTHING;
COMMIT;
