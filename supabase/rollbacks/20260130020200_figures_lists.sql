-- Undoes 20260130020200_figures_lists.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_revenue_balances_paying_idx;
DROP INDEX IF EXISTS billing_revenue_movements_kind_idx;
DROP INDEX IF EXISTS billing_revenue_movements_currency_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260130020200';
COMMIT;
