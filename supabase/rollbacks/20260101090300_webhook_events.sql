-- Undoes 20260101090300_webhook_events.sql. The rows of these tables are lost: back them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS webhook_events;

DELETE FROM billing_schema_migrations WHERE version = '20260101090300';
COMMIT;
