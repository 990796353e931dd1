-- The lists of business figures by index: who pays, and movements by kind and currency.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$ BEGIN
  IF pg_relation_size('billing_revenue_balances') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_revenue_balances_paying_idx
      ON billing_revenue_balances (organization_id) WHERE amount > 0;
  END IF;
  IF pg_relation_size('billing_revenue_movements') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_revenue_movements_kind_idx
      ON billing_revenue_movements
         (kind, occurred_at DESC, organization_id DESC, currency DESC, sequence DESC);
    CREATE INDEX IF NOT EXISTS billing_revenue_movements_currency_idx
      ON billing_revenue_movements
         (currency, occurred_at DESC, organization_id DESC, sequence DESC);
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130020200', 'figures_lists') ON CONFLICT DO NOTHING;
COMMIT;
