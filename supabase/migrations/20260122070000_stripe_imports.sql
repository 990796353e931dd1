-- How far an import of a Stripe account is, so that one that was interrupted goes on.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS stripe_imports (
  id uuid PRIMARY KEY,
  -- What it was asked for.
  terms jsonb NOT NULL,
  -- The kind of object that it goes through, and after which one it goes on.
  phase text NOT NULL,
  cursor text,
  -- How many of each kind it has seen and written.
  counts jsonb NOT NULL DEFAULT '{}',
  began_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  -- When it was done, or another began in its place.
  ended_at timestamptz
);

ALTER TABLE stripe_imports ENABLE ROW LEVEL SECURITY;
ALTER TABLE stripe_imports FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS stripe_imports_owner ON stripe_imports;
CREATE POLICY stripe_imports_owner ON stripe_imports TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS stripe_imports_worker ON stripe_imports;
CREATE POLICY stripe_imports_worker ON stripe_imports TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON stripe_imports TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260122070000', 'stripe_imports') ON CONFLICT DO NOTHING;
COMMIT;
