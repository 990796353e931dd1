-- Usage: what was counted, what it adds up to, what is reserved, reported and
-- alerted about, and the quotas that operators set for one organization.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- What an operator set instead of the plan's quota.
CREATE TABLE IF NOT EXISTS usage_quota_overrides (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  unlimited boolean NOT NULL DEFAULT false,
  quota numeric(24,4) CHECK (quota >= 0),
  -- Null: as the plan says.
  over_limit text CHECK (over_limit IN ('hard', 'grace', 'overage')),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, metric),
  CHECK (unlimited = (quota IS NULL))
);

-- Each use, once for each id that its sender gave it.
CREATE TABLE IF NOT EXISTS usage_events (
  organization_id uuid NOT NULL,
  event_id text NOT NULL CHECK (event_id <> ''),
  metric text NOT NULL,
  quantity numeric(20,4) NOT NULL CHECK (quantity >= 0),
  -- When, if the sender said so; else recorded_at.
  occurred_at timestamptz,
  recorded_at timestamptz NOT NULL,
  -- The start of the billing period that it counts in.
  period_start timestamptz NOT NULL,
  metadata jsonb,
  PRIMARY KEY (organization_id, event_id)
);

-- What the events of a billing period add up to.
CREATE TABLE IF NOT EXISTS usage_totals (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  period_end timestamptz NOT NULL,
  total numeric(24,4) NOT NULL CHECK (total >= 0),
  -- Held for calls that are under way.
  reserved numeric(24,4) NOT NULL DEFAULT 0 CHECK (reserved >= 0),
  events bigint NOT NULL DEFAULT 0,
  -- The newest event, which a level that is not summed is taken from.
  last_at timestamptz,
  last_event_id text,
  -- The highest threshold, in percent, that an alert told of.
  alerted smallint NOT NULL DEFAULT 0,
  -- What Stripe was told of, in whole units.
  reported numeric(24,0) NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, metric, period_start),
  CHECK (period_start < period_end)
);
ALTER TABLE usage_totals SET (fillfactor = 50);

-- Usage that is held for a call until it is known how that went.
CREATE TABLE IF NOT EXISTS usage_reservations (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  quantity numeric(20,4) NOT NULL CHECK (quantity >= 0),
  reserved_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id)
);
CREATE INDEX IF NOT EXISTS usage_reservations_expires_idx ON usage_reservations (expires_at);

-- Alerts, and how the application was told of them.
CREATE TABLE IF NOT EXISTS usage_alerts (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  threshold smallint NOT NULL CHECK (threshold > 0),
  id uuid NOT NULL,
  period_end timestamptz NOT NULL,
  usage numeric(24,4) NOT NULL,
  quota numeric(24,4) NOT NULL,
  raised_at timestamptz NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL,
  delivered_at timestamptz,
  -- When it was given up.
  failed_at timestamptz,
  error_message text,
  PRIMARY KEY (organization_id, metric, period_start, threshold)
);
CREATE INDEX IF NOT EXISTS usage_alerts_due_idx ON usage_alerts (next_attempt_at)
  WHERE delivered_at IS NULL AND failed_at IS NULL;

-- What Stripe is told: entered before the call, and with one identifier for
-- an hour, so that neither a crash nor a second run tells it twice.
CREATE TABLE IF NOT EXISTS usage_reports (
  organization_id uuid NOT NULL,
  identifier text NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  stripe_customer_id text NOT NULL,
  event_name text NOT NULL,
  -- What is added (a sum, a maximum) or the level (the last one).
  units numeric(24,0) NOT NULL,
  -- When the usage is said to have been.
  at timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  -- When Stripe may have heard of it without our knowing.
  attempted_at timestamptz,
  sent_at timestamptz,
  error_message text,
  PRIMARY KEY (organization_id, identifier)
);
CREATE INDEX IF NOT EXISTS usage_reports_unsent_idx ON usage_reports (created_at)
  WHERE sent_at IS NULL;

ALTER TABLE usage_quota_overrides ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_quota_overrides FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_quota_overrides_owner ON usage_quota_overrides;
CREATE POLICY usage_quota_overrides_owner ON usage_quota_overrides TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_quota_overrides_select ON usage_quota_overrides;
CREATE POLICY usage_quota_overrides_select ON usage_quota_overrides FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_quota_overrides_worker ON usage_quota_overrides;
CREATE POLICY usage_quota_overrides_worker ON usage_quota_overrides TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_quota_overrides TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_quota_overrides TO billing_worker;

ALTER TABLE usage_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_events FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_events_owner ON usage_events;
CREATE POLICY usage_events_owner ON usage_events TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_events_select ON usage_events;
CREATE POLICY usage_events_select ON usage_events FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_events_worker ON usage_events;
CREATE POLICY usage_events_worker ON usage_events TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_events TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_events TO billing_worker;

ALTER TABLE usage_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_totals FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_totals_owner ON usage_totals;
CREATE POLICY usage_totals_owner ON usage_totals TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_totals_select ON usage_totals;
CREATE POLICY usage_totals_select ON usage_totals FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_totals_worker ON usage_totals;
CREATE POLICY usage_totals_worker ON usage_totals TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_totals TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_totals TO billing_worker;

ALTER TABLE usage_reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_reservations FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_reservations_owner ON usage_reservations;
CREATE POLICY usage_reservations_owner ON usage_reservations TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_reservations_select ON usage_reservations;
CREATE POLICY usage_reservations_select ON usage_reservations FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_reservations_worker ON usage_reservations;
CREATE POLICY usage_reservations_worker ON usage_reservations TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_reservations TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_reservations TO billing_worker;

ALTER TABLE usage_alerts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_alerts FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_alerts_owner ON usage_alerts;
CREATE POLICY usage_alerts_owner ON usage_alerts TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_alerts_select ON usage_alerts;
CREATE POLICY usage_alerts_select ON usage_alerts FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_alerts_worker ON usage_alerts;
CREATE POLICY usage_alerts_worker ON usage_alerts TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_alerts TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_alerts TO billing_worker;

ALTER TABLE usage_reports ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_reports FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_reports_owner ON usage_reports;
CREATE POLICY usage_reports_owner ON usage_reports TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_reports_select ON usage_reports;
CREATE POLICY usage_reports_select ON usage_reports FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_reports_worker ON usage_reports;
CREATE POLICY usage_reports_worker ON usage_reports TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_reports TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_reports TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102092000', 'usage') ON CONFLICT DO NOTHING;
COMMIT;
