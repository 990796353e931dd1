-- Undoes 20260125020000_trial_cards.sql. Which cards had a trial is lost.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS trial_cards;

DELETE FROM billing_schema_migrations WHERE version = '20260125020000';
COMMIT;
