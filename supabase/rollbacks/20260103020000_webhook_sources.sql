-- Undoes 20260103020000_webhook_sources.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS webhook_rejections;
ALTER TABLE IF EXISTS webhook_dead_letter_queue DROP COLUMN IF EXISTS source;
ALTER TABLE IF EXISTS webhook_events DROP COLUMN IF EXISTS source;

DELETE FROM billing_schema_migrations WHERE version = '20260103020000';
COMMIT;
