-- What operators do with all events that match a filter, and how far it is.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS webhook_bulk_actions (
  id uuid PRIMARY KEY,
  action text NOT NULL
    CHECK (action IN ('replay_dead_letters', 'discard_dead_letters', 'replay_events')),
  -- Which events, as it was asked.
  filter jsonb NOT NULL,
  -- How many matched when it was asked for; what came after `through` is left alone.
  counted bigint NOT NULL CHECK (counted >= 0),
  through timestamptz NOT NULL,
  -- The operator; null: the command line.
  requested_by uuid,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  -- The last event that was done, in the order of its list. It is written in the
  -- transaction of what was done with it.
  position_at timestamptz,
  position_id text,
  succeeded bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  -- Those that were not there any more, or that somebody else was at.
  skipped bigint NOT NULL DEFAULT 0,
  -- The first events that failed, and why.
  failures jsonb NOT NULL DEFAULT '[]',
  -- Which replica works on it, and until when.
  lease_id uuid,
  lease_expires_at timestamptz,
  worked_at timestamptz,
  ended_at timestamptz,
  stopped boolean NOT NULL DEFAULT false,
  CHECK ((position_at IS NULL) = (position_id IS NULL))
);

-- What is left to do, which is little.
CREATE INDEX IF NOT EXISTS webhook_bulk_actions_open_idx
  ON webhook_bulk_actions (worked_at, id) WHERE ended_at IS NULL;

ALTER TABLE webhook_bulk_actions ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_bulk_actions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_bulk_actions_owner ON webhook_bulk_actions;
CREATE POLICY webhook_bulk_actions_owner ON webhook_bulk_actions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_bulk_actions_worker ON webhook_bulk_actions;
CREATE POLICY webhook_bulk_actions_worker ON webhook_bulk_actions TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON webhook_bulk_actions TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260128010000', 'bulk_actions') ON CONFLICT DO NOTHING;
COMMIT;
