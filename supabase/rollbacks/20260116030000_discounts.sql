-- Undoes 20260116030000_discounts.sql. What is lost comes back with Stripe's next
-- events, and with `subscriptions reconcile --apply`.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_invoice_items DROP COLUMN IF EXISTS included_tax_amount;
ALTER TABLE billing_invoice_items DROP COLUMN IF EXISTS tax_amount;
ALTER TABLE billing_invoice_items DROP COLUMN IF EXISTS discount_amount;
ALTER TABLE billing_invoices DROP COLUMN IF EXISTS included_tax_amount;
ALTER TABLE billing_invoices DROP COLUMN IF EXISTS discount_amount;
ALTER TABLE billing_customers DROP COLUMN IF EXISTS tax_country;
ALTER TABLE billing_customers DROP COLUMN IF EXISTS tax_located;
ALTER TABLE billing_customers DROP COLUMN IF EXISTS discount_ids;
ALTER TABLE billing_subscription_items DROP COLUMN IF EXISTS discount_ids;
ALTER TABLE billing_subscriptions DROP COLUMN IF EXISTS discount_ids;
DROP TABLE IF EXISTS billing_discounts;

DELETE FROM billing_schema_migrations WHERE version = '20260116030000';
COMMIT;
