-- What happened to an organization, by time.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
DECLARE
  most CONSTANT bigint := 256 * 1024 * 1024;
BEGIN
  IF pg_relation_size('outbound_deliveries') < most THEN
    CREATE INDEX IF NOT EXISTS outbound_deliveries_timeline_idx
      ON outbound_deliveries (organization_id, created_at DESC);
  END IF;
  IF pg_relation_size('billing_stripe_requests') < most THEN
    CREATE INDEX IF NOT EXISTS billing_stripe_requests_timeline_idx
      ON billing_stripe_requests (organization_id, created_at DESC);
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260128020000', 'timeline') ON CONFLICT DO NOTHING;
COMMIT;
