-- Requests to Stripe that change something: entered before they are made, so
-- that what a crash leaves open can be asked again with the same key.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS billing_stripe_requests (
  organization_id uuid NOT NULL,
  -- Also the idempotency key.
  id uuid NOT NULL,
  -- What it is about: one request of an organization is open for each subject.
  subject text NOT NULL CHECK (subject IN ('customer', 'subscription')),
  operation text NOT NULL CHECK (operation <> ''),
  -- The object that is changed; null where one is made.
  target_id text,
  params jsonb NOT NULL,
  -- What the one who asked wants done with the answer.
  context jsonb NOT NULL DEFAULT '{}',
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'succeeded', 'failed')),
  stripe_object_id text,
  error_message text,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  PRIMARY KEY (organization_id, id),
  CHECK ((state = 'open') = (finished_at IS NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS billing_stripe_requests_open_key
  ON billing_stripe_requests (organization_id, subject) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS billing_stripe_requests_created_idx
  ON billing_stripe_requests (created_at) WHERE state = 'open';

ALTER TABLE billing_stripe_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_stripe_requests FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_stripe_requests_owner ON billing_stripe_requests;
CREATE POLICY billing_stripe_requests_owner ON billing_stripe_requests TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_stripe_requests_worker ON billing_stripe_requests;
CREATE POLICY billing_stripe_requests_worker ON billing_stripe_requests TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE ON billing_stripe_requests TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102091000', 'stripe_requests') ON CONFLICT DO NOTHING;
COMMIT;
