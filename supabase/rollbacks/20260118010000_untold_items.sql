-- Undoes 20260118010000_untold_items.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_subscription_items_untold_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260118010000';
COMMIT;
