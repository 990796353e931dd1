-- How dead letters came, in a table of its own: webhook_dead_letter_queue is one
-- of those that are dropped and made again by the file that made them, which
-- knows no column of a later one.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS webhook_dead_letter_sources (
  bucket smallint NOT NULL CHECK (bucket >= 0 AND bucket < 1024),
  stripe_event_id text NOT NULL,
  -- As in webhook_events.
  source text NOT NULL,
  PRIMARY KEY (bucket, stripe_event_id)
);
ALTER TABLE webhook_dead_letter_sources ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_dead_letter_sources FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_dead_letter_sources_owner ON webhook_dead_letter_sources;
CREATE POLICY webhook_dead_letter_sources_owner ON webhook_dead_letter_sources TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_dead_letter_sources_worker ON webhook_dead_letter_sources;
CREATE POLICY webhook_dead_letter_sources_worker ON webhook_dead_letter_sources TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_dead_letter_sources TO billing_worker;

-- The column stays for programs of before, and nothing else reads it.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_attribute
              WHERE attrelid = to_regclass('webhook_dead_letter_queue') AND attname = 'source'
                AND NOT attisdropped) THEN
    INSERT INTO webhook_dead_letter_sources (bucket, stripe_event_id, source)
      SELECT bucket, stripe_event_id, source FROM webhook_dead_letter_queue
    ON CONFLICT DO NOTHING;
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260104010000', 'dead_letter_sources') ON CONFLICT DO NOTHING;
COMMIT;
