-- Checkouts: entered before Stripe is asked for their page, and followed until the payer,
-- and their bank, are done.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS checkout_sessions (
  organization_id uuid NOT NULL,
  -- Also in the idempotency keys, and in the session's metadata.
  id uuid NOT NULL,
  state text NOT NULL DEFAULT 'creating' CHECK (state IN
    ('creating', 'open', 'processing', 'complete', 'expired', 'duplicate', 'failed')),
  -- Equal wishes are equal values.
  wish jsonb NOT NULL,
  params jsonb NOT NULL,
  -- Who began it.
  context jsonb NOT NULL DEFAULT '{}',
  stripe_checkout_session_id text,
  stripe_subscription_id text,
  url text,
  expires_at timestamptz,
  error_message text,
  created_at timestamptz NOT NULL DEFAULT now(),
  called_at timestamptz,
  finished_at timestamptz,
  recovery_attempts integer NOT NULL DEFAULT 0,
  next_recovery_at timestamptz,
  PRIMARY KEY (organization_id, id),
  CHECK (state IN ('creating', 'failed') OR stripe_checkout_session_id IS NOT NULL)
);
-- An organization has one that a payer can be sent to.
CREATE UNIQUE INDEX IF NOT EXISTS checkout_sessions_open_key
  ON checkout_sessions (organization_id) WHERE state IN ('creating', 'open');
CREATE UNIQUE INDEX IF NOT EXISTS checkout_sessions_stripe_key
  ON checkout_sessions (organization_id, stripe_checkout_session_id);
CREATE INDEX IF NOT EXISTS checkout_sessions_unfinished_idx
  ON checkout_sessions (created_at) WHERE state IN ('creating', 'open', 'processing');

ALTER TABLE checkout_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE checkout_sessions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS checkout_sessions_owner ON checkout_sessions;
CREATE POLICY checkout_sessions_owner ON checkout_sessions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS checkout_sessions_select ON checkout_sessions;
CREATE POLICY checkout_sessions_select ON checkout_sessions FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS checkout_sessions_worker ON checkout_sessions;
CREATE POLICY checkout_sessions_worker ON checkout_sessions TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON checkout_sessions TO billing_app;
GRANT SELECT, INSERT, UPDATE ON checkout_sessions TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260122020000', 'checkout_sessions') ON CONFLICT DO NOTHING;
COMMIT;
