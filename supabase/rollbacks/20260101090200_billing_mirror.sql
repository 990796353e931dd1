-- Undoes 20260101090200_billing_mirror.sql. The rows of these tables are lost: back them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS billing_applied_events;
DROP TABLE IF EXISTS billing_alerts;
DROP TABLE IF EXISTS billing_payment_methods;
DROP TABLE IF EXISTS billing_charges;
DROP TABLE IF EXISTS billing_invoice_items;
DROP TABLE IF EXISTS billing_invoices;
DROP TABLE IF EXISTS billing_subscription_payments;
DROP TABLE IF EXISTS billing_subscription_items;
DROP TABLE IF EXISTS billing_subscriptions;
DROP TABLE IF EXISTS billing_customers;

DELETE FROM billing_schema_migrations WHERE version = '20260101090200';
COMMIT;
