-- What requests with an Idempotency-Key were answered, so that the same
-- request, sent again, gets the same answer.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS request_idempotency (
  organization_id uuid NOT NULL,
  idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  -- SHA-256 of the caller, the method, the address and the body: a key goes
  -- with one request.
  fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
  -- Who answers it, and until when. A service that died leaves a lease behind
  -- that ends; one that lost its lease cannot answer in the new holder's name.
  lease_id uuid NOT NULL,
  lease_expires_at timestamptz NOT NULL,
  -- The answer; null while there is none.
  status smallint CHECK (status BETWEEN 100 AND 599),
  headers jsonb,
  -- Null beside a status: it was too large to be kept.
  body bytea,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, idempotency_key),
  CHECK ((status IS NULL) = (headers IS NULL))
);
CREATE INDEX IF NOT EXISTS request_idempotency_expires_idx ON request_idempotency (expires_at);

ALTER TABLE request_idempotency ENABLE ROW LEVEL SECURITY;
ALTER TABLE request_idempotency FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS request_idempotency_owner ON request_idempotency;
CREATE POLICY request_idempotency_owner ON request_idempotency TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS request_idempotency_worker ON request_idempotency;
CREATE POLICY request_idempotency_worker ON request_idempotency TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON request_idempotency TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102090100', 'request_idempotency') ON CONFLICT DO NOTHING;
COMMIT;
