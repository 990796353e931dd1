-- Undoes 20260129010000_business_figures.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP VIEW IF EXISTS reporting.customers, reporting.usage_at_risk, reporting.past_due,
  reporting.trials, reporting.mrr_months, reporting.mrr_movements, reporting.mrr,
  reporting.recurring_revenue, reporting.recurring_items;
DROP SCHEMA IF EXISTS reporting;
DROP INDEX IF EXISTS billing_subscriptions_updated_idx;
DROP INDEX IF EXISTS billing_subscriptions_unsettled_idx;
DROP INDEX IF EXISTS billing_subscriptions_trials_idx;
DROP TABLE IF EXISTS billing_revenue_journal;
DROP TABLE IF EXISTS billing_revenue_months;
DROP TABLE IF EXISTS billing_revenue_movements;
DROP TABLE IF EXISTS billing_revenue_balances;

DELETE FROM billing_schema_migrations WHERE version = '20260129010000';
COMMIT;
