-- Undoes 20260130010000_mails.sql. What was mailed, and what was not yet sent, is forgotten.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS mails;
DROP TABLE IF EXISTS mail_switch;
DROP INDEX IF EXISTS usage_alerts_raised_idx;
DROP INDEX IF EXISTS billing_payment_methods_expiry_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260130010000';
COMMIT;
