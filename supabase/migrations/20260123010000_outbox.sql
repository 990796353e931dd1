-- Events out: what the product is told of changes, in order and signed.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- Where events go. The operator's, for all organizations unless limited to one; it has
-- its secrets, so that no organization sees it.
CREATE TABLE IF NOT EXISTS outbound_endpoints (
  id uuid PRIMARY KEY,
  -- Null: the events of all organizations.
  organization_id uuid,
  source text NOT NULL CHECK (source IN ('operator', 'configuration', 'listen')),
  url text NOT NULL CHECK (url <> ''),
  description text,
  -- Empty: events of every type.
  types text[] NOT NULL DEFAULT '{}',
  -- As Standard Webhooks writes it. Null: the setting has it.
  secret text,
  -- Signs beside the other until its time is over.
  previous_secret text,
  previous_secret_until timestamptz,
  -- The first failure since the last success.
  failing_since timestamptz,
  -- The last one, whatever came after it.
  last_failed_at timestamptz,
  last_error text,
  disabled_at timestamptz,
  disabled_reason text,
  -- An endpoint that listens goes when nobody renews its lease.
  lease_expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((secret IS NULL) = (source = 'configuration')),
  CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL)),
  CHECK ((lease_expires_at IS NOT NULL) = (source = 'listen'))
);

-- That an organization's state changed, written in the change's own transaction: which
-- entries of the audit log tell of it, or none. The publisher makes events of it.
CREATE TABLE IF NOT EXISTS outbound_changes (
  organization_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  first_entry bigint,
  last_entry bigint,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (organization_id, id),
  CHECK ((first_entry IS NULL) = (last_entry IS NULL))
);

-- The last sequence number of an organization's events. Whoever publishes holds it.
CREATE TABLE IF NOT EXISTS outbound_streams (
  organization_id uuid PRIMARY KEY,
  last_sequence bigint NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS outbound_events (
  organization_id uuid NOT NULL,
  sequence bigint NOT NULL CHECK (sequence > 0),
  -- Also `webhook-id`.
  id uuid NOT NULL,
  event_type text NOT NULL,
  -- The CloudEvent, byte for byte as it is sent.
  body json NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, sequence),
  UNIQUE (organization_id, id)
);
CREATE INDEX IF NOT EXISTS outbound_events_time_idx ON outbound_events (created_at);

CREATE TABLE IF NOT EXISTS outbound_deliveries (
  organization_id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  sequence bigint NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
  attempts integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  last_attempt_at timestamptz,
  response_status integer,
  -- The beginning of the answer, or why there was none.
  response_excerpt text,
  error_message text,
  ended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, endpoint_id, sequence),
  CHECK ((status = 'pending') = (ended_at IS NULL))
);
CREATE INDEX IF NOT EXISTS outbound_deliveries_pending_idx
  ON outbound_deliveries (organization_id, endpoint_id, sequence) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS outbound_deliveries_event_idx
  ON outbound_deliveries (organization_id, sequence);
CREATE INDEX IF NOT EXISTS outbound_deliveries_id_idx ON outbound_deliveries (id);
CREATE INDEX IF NOT EXISTS outbound_deliveries_endpoint_idx
  ON outbound_deliveries (endpoint_id, created_at);
CREATE INDEX IF NOT EXISTS outbound_deliveries_newest_idx
  ON outbound_deliveries (created_at DESC, sequence DESC, id DESC);
CREATE INDEX IF NOT EXISTS outbound_deliveries_failed_idx
  ON outbound_deliveries (created_at) WHERE status = 'failed';

-- An organization's events on their way to an endpoint: one sender at a time, in order.
CREATE TABLE IF NOT EXISTS outbound_lanes (
  organization_id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  -- When the next delivery is due, or the sender's lease ends. Null: there is none.
  due_at timestamptz,
  lease_id uuid,
  PRIMARY KEY (organization_id, endpoint_id)
);
CREATE INDEX IF NOT EXISTS outbound_lanes_due_idx ON outbound_lanes (endpoint_id, due_at)
  WHERE due_at IS NOT NULL;

ALTER TABLE outbound_endpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_endpoints FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_endpoints_owner ON outbound_endpoints;
CREATE POLICY outbound_endpoints_owner ON outbound_endpoints TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_endpoints_worker ON outbound_endpoints;
CREATE POLICY outbound_endpoints_worker ON outbound_endpoints TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON outbound_endpoints TO billing_worker;

ALTER TABLE outbound_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_changes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_changes_owner ON outbound_changes;
CREATE POLICY outbound_changes_owner ON outbound_changes TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_changes_worker ON outbound_changes;
CREATE POLICY outbound_changes_worker ON outbound_changes TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON outbound_changes TO billing_worker;

ALTER TABLE outbound_streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_streams FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_streams_owner ON outbound_streams;
CREATE POLICY outbound_streams_owner ON outbound_streams TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_streams_worker ON outbound_streams;
CREATE POLICY outbound_streams_worker ON outbound_streams TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE ON outbound_streams TO billing_worker;

ALTER TABLE outbound_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_events FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_events_owner ON outbound_events;
CREATE POLICY outbound_events_owner ON outbound_events TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_events_worker ON outbound_events;
CREATE POLICY outbound_events_worker ON outbound_events TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON outbound_events TO billing_worker;

ALTER TABLE outbound_deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_deliveries FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_deliveries_owner ON outbound_deliveries;
CREATE POLICY outbound_deliveries_owner ON outbound_deliveries TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_deliveries_worker ON outbound_deliveries;
CREATE POLICY outbound_deliveries_worker ON outbound_deliveries TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON outbound_deliveries TO billing_worker;

ALTER TABLE outbound_lanes ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbound_lanes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS outbound_lanes_owner ON outbound_lanes;
CREATE POLICY outbound_lanes_owner ON outbound_lanes TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS outbound_lanes_worker ON outbound_lanes;
CREATE POLICY outbound_lanes_worker ON outbound_lanes TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON outbound_lanes TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260123010000', 'outbox') ON CONFLICT DO NOTHING;
COMMIT;
