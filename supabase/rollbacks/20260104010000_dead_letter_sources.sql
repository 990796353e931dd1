-- Undoes 20260104010000_dead_letter_sources.sql: how dead letters came is told
-- by their column again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('webhook_dead_letter_sources') IS NOT NULL
     AND EXISTS (SELECT FROM pg_attribute
                  WHERE attrelid = to_regclass('webhook_dead_letter_queue') AND attname = 'source'
                    AND NOT attisdropped) THEN
    UPDATE webhook_dead_letter_queue d SET source = s.source
      FROM webhook_dead_letter_sources s
     WHERE s.bucket = d.bucket AND s.stripe_event_id = d.stripe_event_id;
  END IF;
END
$$;
DROP TABLE IF EXISTS webhook_dead_letter_sources;

DELETE FROM billing_schema_migrations WHERE version = '20260104010000';
COMMIT;
