-- Changes at the end of a period: the schedules that Stripe makes them with, which
-- schedule a subscription has, and why a subscription was canceled.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS billing_subscription_schedules (
  organization_id uuid NOT NULL,
  stripe_schedule_id text NOT NULL,
  stripe_customer_id text,
  -- Kept after a release.
  stripe_subscription_id text,
  status text NOT NULL,
  end_behavior text,
  current_phase_start timestamptz,
  current_phase_end timestamptz,
  -- Each with its start, end, items and the version of the plan that it names.
  phases jsonb NOT NULL DEFAULT '[]',
  released_at timestamptz,
  canceled_at timestamptz,
  completed_at timestamptz,
  metadata jsonb NOT NULL DEFAULT '{}',
  livemode boolean NOT NULL,
  stripe_created_at timestamptz,
  last_event_at timestamptz NOT NULL,
  last_event_rank smallint NOT NULL,
  last_event_id text NOT NULL,
  tied_event_ids text[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, stripe_schedule_id)
);

ALTER TABLE billing_subscription_schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_subscription_schedules FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_subscription_schedules_owner ON billing_subscription_schedules;
CREATE POLICY billing_subscription_schedules_owner ON billing_subscription_schedules
  TO billing_owner USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_subscription_schedules_select ON billing_subscription_schedules;
CREATE POLICY billing_subscription_schedules_select ON billing_subscription_schedules
  FOR SELECT TO billing_app USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_subscription_schedules_worker ON billing_subscription_schedules;
CREATE POLICY billing_subscription_schedules_worker ON billing_subscription_schedules
  TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON billing_subscription_schedules TO billing_app;
GRANT SELECT, INSERT, UPDATE ON billing_subscription_schedules TO billing_worker;

ALTER TABLE billing_subscriptions
  -- The schedule that drives it; null: none.
  ADD COLUMN IF NOT EXISTS stripe_schedule_id text,
  -- What the customer said, and which of Stripe's causes it was.
  ADD COLUMN IF NOT EXISTS cancellation_comment text,
  ADD COLUMN IF NOT EXISTS cancellation_feedback text,
  ADD COLUMN IF NOT EXISTS cancellation_reason text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260116020000', 'pending_changes') ON CONFLICT DO NOTHING;
COMMIT;
