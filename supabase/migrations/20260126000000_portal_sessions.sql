-- The customer pages: a one-time code that a service key asked for, and the session that it
-- becomes.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS portal_sessions (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  -- For whom it acts; nobody's user is known.
  role text NOT NULL CHECK (role IN ('owner', 'billing_manager', 'member')),
  -- The key that asked for it: with the key, it ends.
  service_key_id uuid NOT NULL,
  return_url text,
  code_hash bytea NOT NULL CHECK (length(code_hash) = 32),
  code_expires_at timestamptz NOT NULL,
  -- Null until the code is used.
  token_hash bytea CHECK (length(token_hash) = 32),
  opened_at timestamptz,
  expires_at timestamptz NOT NULL,
  ended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id),
  CHECK ((token_hash IS NULL) = (opened_at IS NULL))
);
CREATE INDEX IF NOT EXISTS portal_sessions_code_idx ON portal_sessions (code_hash);
CREATE INDEX IF NOT EXISTS portal_sessions_token_idx
  ON portal_sessions (token_hash) WHERE token_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS portal_sessions_expires_idx ON portal_sessions (expires_at);

ALTER TABLE portal_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE portal_sessions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS portal_sessions_owner ON portal_sessions;
CREATE POLICY portal_sessions_owner ON portal_sessions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS portal_sessions_worker ON portal_sessions;
CREATE POLICY portal_sessions_worker ON portal_sessions TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON portal_sessions TO billing_worker;

-- What a customer has still to pay is on the first page.
DO $$ BEGIN
  IF pg_relation_size('billing_invoices') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_invoices_open_idx
      ON billing_invoices (organization_id, stripe_created_at DESC) WHERE status = 'open';
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260126000000', 'portal_sessions') ON CONFLICT DO NOTHING;
COMMIT;
