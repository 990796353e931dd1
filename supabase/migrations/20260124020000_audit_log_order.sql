-- Operators read the audit log of all organizations, newest first.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$ BEGIN
  IF pg_relation_size('billing_audit_log') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_audit_log_order_idx
      ON billing_audit_log (created_at DESC, coalesce(sequence, 0) DESC, id DESC);
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260124020000', 'audit_log_order') ON CONFLICT DO NOTHING;
COMMIT;
