-- Undoes 20260120020000_refunds.sql. What the table holds is lost: back it up first. Charges keep
-- what is refunded of them without what failed, until their next event.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('billing_customers') IS NOT NULL THEN
    REVOKE DELETE ON billing_customers FROM billing_worker;
  END IF;
END
$$;
DROP TABLE IF EXISTS billing_refunds;
ALTER TABLE IF EXISTS billing_charges
  DROP COLUMN IF EXISTS refunds_told_by,
  DROP COLUMN IF EXISTS amount_refunded_told;

DELETE FROM billing_schema_migrations WHERE version = '20260120020000';
COMMIT;
