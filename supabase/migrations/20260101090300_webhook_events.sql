-- The inbox: every event that Stripe delivered, as it was received.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- An event has no organization when it arrives: it is kept under a hash of its
-- id (`bucket`, computed by the service), which makes event ids unique.
CREATE TABLE IF NOT EXISTS webhook_events (
  bucket smallint NOT NULL CHECK (bucket >= 0 AND bucket < 1024),
  stripe_event_id text NOT NULL CHECK (stripe_event_id <> ''),
  event_type text NOT NULL,
  api_version text,
  livemode boolean NOT NULL,
  account text,
  -- When Stripe made the event.
  event_created_at timestamptz NOT NULL,
  -- json, not jsonb: byte for byte what was signed.
  payload json NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  processed boolean NOT NULL DEFAULT false,
  processed_at timestamptz,
  -- applied, superseded, ignored, livemode_mismatch or foreign_account.
  outcome text,
  organization_id uuid,
  PRIMARY KEY (bucket, stripe_event_id)
);

-- lz4 is 10 to 20 % faster than pglz here; a server built without it keeps its default.
DO $$
BEGIN
  ALTER TABLE webhook_events ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
  NULL;
END
$$;

ALTER TABLE webhook_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_events FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_events_owner ON webhook_events;
CREATE POLICY webhook_events_owner ON webhook_events TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_events_worker ON webhook_events;
CREATE POLICY webhook_events_worker ON webhook_events TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_events TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101090300', 'webhook_events') ON CONFLICT DO NOTHING;
COMMIT;
