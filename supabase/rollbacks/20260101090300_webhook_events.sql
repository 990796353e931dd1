-- Undoes 20260101090300_webhook_events.sql. The rows of these tables are lost: back them up first.

SET lock_timeout TO '5s';
SET client_min_messages TO warning;
SET ROLE billing_owner;

DROP TABLE IF EXISTS webhook_events;

DELETE FROM billing_schema_migrations WHERE version = '20260101090300';
RESET ROLE;
