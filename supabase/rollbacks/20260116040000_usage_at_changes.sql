-- Undoes 20260116040000_usage_at_changes.sql. Run `usage report` first: what
-- it has not charged yet is never charged. What was charged is on Stripe's invoices. The
-- quotas that it raised fall back to the plans', so that units
-- which were charged count again until the end of their period.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS usage_charges;
ALTER TABLE IF EXISTS usage_totals
  DROP COLUMN IF EXISTS metered_since,
  DROP COLUMN IF EXISTS quota_adjustment;

DELETE FROM billing_schema_migrations WHERE version = '20260116040000';
COMMIT;
