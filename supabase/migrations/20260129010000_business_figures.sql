-- Business figures: what organizations pay a month, how that moved, and the views of schema
-- reporting that define each figure (docs/reporting.md).
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;

-- In a database that was restored, the owner may make none.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'reporting') THEN
    CREATE SCHEMA reporting AUTHORIZATION billing_owner;
  END IF;
END $$;
SET LOCAL ROLE billing_owner;

-- What an organization pays a month, as last booked. Kept at 0 after it stopped paying.
CREATE TABLE IF NOT EXISTS billing_revenue_balances (
  organization_id uuid NOT NULL,
  currency text NOT NULL,
  -- In minor units, before discounts.
  amount bigint NOT NULL CHECK (amount >= 0),
  -- Of that, what a discount is taken off.
  discounted_amount bigint NOT NULL CHECK (discounted_amount BETWEEN 0 AND amount),
  -- The number and time of its last movement.
  sequence bigint NOT NULL,
  occurred_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, currency)
);

-- Each change of a balance.
CREATE TABLE IF NOT EXISTS billing_revenue_movements (
  organization_id uuid NOT NULL,
  currency text NOT NULL,
  sequence bigint NOT NULL,
  kind text NOT NULL
    CHECK (kind IN ('new', 'reactivation', 'expansion', 'contraction', 'churn')),
  before_amount bigint NOT NULL,
  after_amount bigint NOT NULL,
  -- When it took place, by Stripe's clock; and when it was booked.
  occurred_at timestamptz NOT NULL,
  booked_at timestamptz NOT NULL DEFAULT now(),
  -- The subscription that changed last, and the event that said so.
  stripe_subscription_id text NOT NULL,
  stripe_event_id text NOT NULL,
  PRIMARY KEY (organization_id, currency, sequence),
  CHECK (before_amount <> after_amount)
);
CREATE INDEX IF NOT EXISTS billing_revenue_movements_order_idx
  ON billing_revenue_movements (occurred_at DESC, organization_id DESC, currency DESC, sequence DESC);

-- What the movements of a month (UTC) come to, so that no figure adds all of them up.
CREATE TABLE IF NOT EXISTS billing_revenue_months (
  month timestamptz NOT NULL,
  currency text NOT NULL,
  kind text NOT NULL,
  movements bigint NOT NULL,
  amount numeric(28,0) NOT NULL,
  PRIMARY KEY (month, currency, kind)
);

-- How far the journal has read: one row, which is also its writer's lock.
CREATE TABLE IF NOT EXISTS billing_revenue_journal (
  name text PRIMARY KEY CHECK (name = 'journal'),
  -- When the last run began, and the last one that compared every organization.
  ran_at timestamptz,
  compared_at timestamptz
);

DO $$ BEGIN
  IF pg_relation_size('billing_subscriptions') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_subscriptions_updated_idx
      ON billing_subscriptions (updated_at);
    CREATE INDEX IF NOT EXISTS billing_subscriptions_unsettled_idx
      ON billing_subscriptions (status, organization_id)
      WHERE status IN ('trialing', 'past_due', 'unpaid');
    CREATE INDEX IF NOT EXISTS billing_subscriptions_trials_idx
      ON billing_subscriptions ((LEAST(trial_end, ended_at))) WHERE trial_end IS NOT NULL;
  END IF;
END $$;

ALTER TABLE billing_revenue_balances ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_revenue_balances FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_revenue_balances_owner ON billing_revenue_balances;
CREATE POLICY billing_revenue_balances_owner ON billing_revenue_balances TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_revenue_balances_worker ON billing_revenue_balances;
CREATE POLICY billing_revenue_balances_worker ON billing_revenue_balances TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE ON billing_revenue_balances TO billing_worker;

ALTER TABLE billing_revenue_movements ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_revenue_movements FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_revenue_movements_owner ON billing_revenue_movements;
CREATE POLICY billing_revenue_movements_owner ON billing_revenue_movements TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_revenue_movements_worker ON billing_revenue_movements;
CREATE POLICY billing_revenue_movements_worker ON billing_revenue_movements TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT ON billing_revenue_movements TO billing_worker;

ALTER TABLE billing_revenue_months ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_revenue_months FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_revenue_months_owner ON billing_revenue_months;
CREATE POLICY billing_revenue_months_owner ON billing_revenue_months TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_revenue_months_worker ON billing_revenue_months;
CREATE POLICY billing_revenue_months_worker ON billing_revenue_months TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON billing_revenue_months TO billing_worker;

ALTER TABLE billing_revenue_journal ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_revenue_journal FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_revenue_journal_owner ON billing_revenue_journal;
CREATE POLICY billing_revenue_journal_owner ON billing_revenue_journal TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_revenue_journal_worker ON billing_revenue_journal;
CREATE POLICY billing_revenue_journal_worker ON billing_revenue_journal TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON billing_revenue_journal TO billing_worker;

GRANT USAGE ON SCHEMA reporting TO billing_worker;

-- The items that are paid for again and again, each with what it comes to a month. Usage is not
-- among them.
CREATE OR REPLACE VIEW reporting.recurring_items WITH (security_invoker = true) AS
  SELECT s.organization_id, s.stripe_subscription_id, i.stripe_subscription_item_id, s.status,
         s.plan_tier, i.addon, i.seats, lower(coalesce(i.currency, s.currency)) AS currency,
         coalesce(i.quantity, 1) AS quantity,
         coalesce(i.unit_amount_decimal, i.unit_amount) AS unit_amount,
         i.recurring_interval, coalesce(i.recurring_interval_count, 1) AS recurring_interval_count,
         round(coalesce(i.unit_amount_decimal, i.unit_amount) * coalesce(i.quantity, 1)
               * CASE i.recurring_interval WHEN 'day' THEN 365 WHEN 'week' THEN 52
                                           WHEN 'month' THEN 12 WHEN 'year' THEN 1 END
               / (12 * coalesce(i.recurring_interval_count, 1)))::bigint AS monthly_amount,
         -- A discount that ended stays in the mirror until Stripe shows its owner without it.
         EXISTS (SELECT FROM unnest(i.discount_ids || s.discount_ids
                                    || coalesce(c.discount_ids, '{}'::text[])) AS has(id)
                   LEFT JOIN public.billing_discounts d
                     ON d.organization_id = s.organization_id AND d.stripe_discount_id = has.id
                  WHERE d.deleted_at IS NULL AND (d.ends_at IS NULL OR d.ends_at > now()))
           AS discounted,
         -- When it began to be paid for.
         least(coalesce(s.trial_end, s.stripe_created_at), s.last_event_at) AS began_at
    FROM public.billing_subscriptions s
    JOIN public.billing_subscription_items i
      ON i.organization_id = s.organization_id
     AND i.stripe_subscription_id = s.stripe_subscription_id
    LEFT JOIN public.billing_customers c
      ON c.organization_id = s.organization_id AND c.stripe_customer_id = s.stripe_customer_id
   WHERE s.status IN ('active', 'past_due')
     AND i.usage_type IS DISTINCT FROM 'metered'
     AND i.recurring_interval IS NOT NULL
     -- Sample events are nobody's.
     AND s.organization_id <> '5a3b1e00-0000-7000-8000-000000000001';

-- What each organization pays a month, as its subscriptions are now.
CREATE OR REPLACE VIEW reporting.recurring_revenue WITH (security_invoker = true) AS
  SELECT organization_id, currency, sum(monthly_amount)::bigint AS amount,
         coalesce(sum(monthly_amount) FILTER (WHERE discounted), 0)::bigint AS discounted_amount,
         min(began_at) AS began_at
    FROM reporting.recurring_items
   WHERE monthly_amount IS NOT NULL
   GROUP BY organization_id, currency;

-- Monthly recurring revenue, as booked.
CREATE OR REPLACE VIEW reporting.mrr WITH (security_invoker = true) AS
  SELECT currency, sum(amount)::bigint AS mrr_amount,
         sum(discounted_amount)::bigint AS discounted_mrr_amount, count(*) AS customers
    FROM public.billing_revenue_balances
   WHERE amount > 0
   GROUP BY currency;

-- Its movements, by month (UTC) and kind.
CREATE OR REPLACE VIEW reporting.mrr_movements WITH (security_invoker = true) AS
  SELECT month, currency, kind, movements, amount FROM public.billing_revenue_months;

-- Every month since the first, from its opening to its closing.
CREATE OR REPLACE VIEW reporting.mrr_months WITH (security_invoker = true) AS
  WITH moved AS (
    SELECT month, currency,
           coalesce(sum(amount) FILTER (WHERE kind = 'new'), 0) AS new_amount,
           coalesce(sum(amount) FILTER (WHERE kind = 'reactivation'), 0) AS reactivation_amount,
           coalesce(sum(amount) FILTER (WHERE kind = 'expansion'), 0) AS expansion_amount,
           coalesce(sum(amount) FILTER (WHERE kind = 'contraction'), 0) AS contraction_amount,
           coalesce(sum(amount) FILTER (WHERE kind = 'churn'), 0) AS churn_amount,
           coalesce(sum(movements) FILTER (WHERE kind = 'new'), 0) AS new_customers,
           coalesce(sum(movements) FILTER (WHERE kind = 'reactivation'), 0) AS reactivated_customers,
           coalesce(sum(movements) FILTER (WHERE kind = 'churn'), 0) AS churned_customers
      FROM reporting.mrr_movements GROUP BY month, currency
  ), months AS (
    SELECT first.currency, m.month
      FROM (SELECT currency, min(month) AS month FROM moved GROUP BY currency) first,
           generate_series(first.month AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC', '1 month') AS s(at),
           LATERAL (SELECT s.at AT TIME ZONE 'UTC' AS month) m
  ), closed AS (
    SELECT month, currency,
           coalesce(new_amount, 0)::bigint AS new_amount,
           coalesce(reactivation_amount, 0)::bigint AS reactivation_amount,
           coalesce(expansion_amount, 0)::bigint AS expansion_amount,
           coalesce(contraction_amount, 0)::bigint AS contraction_amount,
           coalesce(churn_amount, 0)::bigint AS churn_amount,
           coalesce(new_customers, 0)::bigint AS new_customers,
           coalesce(reactivated_customers, 0)::bigint AS reactivated_customers,
           coalesce(churned_customers, 0)::bigint AS churned_customers,
           (sum(coalesce(new_amount + reactivation_amount + expansion_amount
                         + contraction_amount + churn_amount, 0)) OVER so_far)::bigint AS closing_amount,
           (sum(coalesce(new_customers + reactivated_customers - churned_customers, 0))
              OVER so_far)::bigint AS closing_customers
      FROM months LEFT JOIN moved USING (currency, month)
    WINDOW so_far AS (PARTITION BY currency ORDER BY month)
  ), opened AS (
    SELECT *, coalesce(lag(closing_amount) OVER by_month, 0) AS opening_amount,
           coalesce(lag(closing_customers) OVER by_month, 0) AS opening_customers
      FROM closed WINDOW by_month AS (PARTITION BY currency ORDER BY month)
  )
  SELECT month, currency, opening_amount, new_amount, reactivation_amount, expansion_amount,
         contraction_amount, churn_amount, closing_amount, opening_customers, new_customers,
         reactivated_customers, churned_customers, closing_customers,
         -- In percent, of those who paid when the month began.
         round(100.0 * churned_customers / nullif(opening_customers, 0), 2) AS customer_churn_percent,
         round(-100.0 * (churn_amount + contraction_amount) / nullif(opening_amount, 0), 2)
           AS revenue_churn_percent,
         round(100.0 * (opening_amount + expansion_amount + contraction_amount + churn_amount)
               / nullif(opening_amount, 0), 2) AS net_retention_percent
    FROM opened;

-- Each trial, and what became of it.
CREATE OR REPLACE VIEW reporting.trials WITH (security_invoker = true) AS
  SELECT s.organization_id, s.stripe_subscription_id, s.plan_tier, s.trial_start,
         LEAST(s.trial_end, s.ended_at) AS ends_at,
         CASE WHEN s.status = 'trialing' THEN 'running'
              WHEN paid.yes THEN 'converted'
              WHEN s.status IN ('active', 'past_due') THEN 'unpaid'
              ELSE 'lost' END AS state
    FROM public.billing_subscriptions s
   CROSS JOIN LATERAL (
     SELECT EXISTS (SELECT FROM public.billing_invoices i
                     WHERE i.organization_id = s.organization_id
                       AND i.stripe_subscription_id = s.stripe_subscription_id
                       AND i.status = 'paid' AND i.amount_paid > 0) AS yes) paid
   WHERE s.trial_end IS NOT NULL
     AND s.organization_id <> '5a3b1e00-0000-7000-8000-000000000001';

-- The subscriptions whose payment failed, with what is owed on their open invoices.
CREATE OR REPLACE VIEW reporting.past_due WITH (security_invoker = true) AS
  SELECT s.organization_id, s.stripe_subscription_id, s.status, s.plan_tier,
         lower(coalesce(owed.currency, s.currency)) AS currency,
         coalesce(owed.amount, 0)::bigint AS owed_amount, coalesce(owed.invoices, 0) AS invoices,
         owed.since
    FROM public.billing_subscriptions s
    LEFT JOIN LATERAL (
      SELECT i.currency, sum(i.amount_remaining) AS amount, count(*) AS invoices,
             min(coalesce(i.finalized_at, i.stripe_created_at)) AS since
        FROM public.billing_invoices i
       WHERE i.organization_id = s.organization_id
         AND i.stripe_subscription_id = s.stripe_subscription_id
         AND i.status = 'open'
       GROUP BY i.currency) owed ON true
   WHERE s.status IN ('past_due', 'unpaid')
     AND s.organization_id <> '5a3b1e00-0000-7000-8000-000000000001';

-- What those organizations have used over their quotas in this period, which no invoice has yet.
CREATE OR REPLACE VIEW reporting.usage_at_risk WITH (security_invoker = true) AS
  SELECT late.organization_id, q.metric, q.currency, q.overage_rate,
         t.total AS used, q.quota, t.total - q.quota AS overage, t.period_start, t.period_end
    FROM (SELECT DISTINCT organization_id FROM public.billing_subscriptions
           WHERE status IN ('past_due', 'unpaid')
             AND organization_id <> '5a3b1e00-0000-7000-8000-000000000001') late
    JOIN public.effective_usage_quotas q ON q.organization_id = late.organization_id
    JOIN public.usage_totals t
      ON t.organization_id = q.organization_id AND t.metric = q.metric
     AND t.period_start <= now() AND t.period_end > now()
   WHERE q.over_limit = 'overage' AND NOT q.unlimited AND q.overage_rate IS NOT NULL
     AND t.total > q.quota;

-- Every organization that is neither archived nor erased, and whether it pays. IN, since each set
-- is hashed once then, whatever the planner thinks of it.
CREATE OR REPLACE VIEW reporting.customers WITH (security_invoker = true) AS
  SELECT o.id AS organization_id, o.name, o.external_id, o.plan_tier,
         CASE WHEN o.id IN (SELECT organization_id FROM public.billing_subscriptions
                             WHERE status IN ('past_due', 'unpaid'))
              THEN 'past_due'
              WHEN o.id IN (SELECT organization_id FROM public.billing_revenue_balances
                             WHERE amount > 0)
              THEN 'paying'
              WHEN o.id IN (SELECT organization_id FROM public.billing_subscriptions
                             WHERE status = 'trialing')
              THEN 'trialing'
              ELSE 'free' END AS standing
    FROM public.organizations o
   WHERE o.archived_at IS NULL AND o.erased_at IS NULL
     AND o.id <> '5a3b1e00-0000-7000-8000-000000000001';

GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260129010000', 'business_figures') ON CONFLICT DO NOTHING;
COMMIT;
