-- Uses that were refused, so that each can be explained by the id of its request.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS usage_denials (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  -- X-Request-Id of the answer. Callers may choose it, and use it again.
  request_id text NOT NULL,
  denied_at timestamptz NOT NULL,
  -- The code of the answer.
  reason text NOT NULL,
  -- What was refused: a use of a metric, or a feature.
  metric text,
  feature text,
  -- What the decision rested on; a null quota is none.
  usage numeric,
  quota numeric,
  grace_expires_at timestamptz,
  PRIMARY KEY (organization_id, id),
  CHECK (metric IS NOT NULL OR feature IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS usage_denials_request_idx ON usage_denials (request_id);
-- The newest of an organization, which stay.
CREATE INDEX IF NOT EXISTS usage_denials_organization_idx
  ON usage_denials (organization_id, denied_at, id);
CREATE INDEX IF NOT EXISTS usage_denials_time_idx ON usage_denials (denied_at);

ALTER TABLE usage_denials ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_denials FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_denials_owner ON usage_denials;
CREATE POLICY usage_denials_owner ON usage_denials TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_denials_worker ON usage_denials;
CREATE POLICY usage_denials_worker ON usage_denials TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_denials TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130020300', 'usage_denials') ON CONFLICT DO NOTHING;
COMMIT;
