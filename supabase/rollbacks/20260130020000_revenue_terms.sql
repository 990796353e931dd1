-- Undoes 20260130020000_revenue_terms.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP VIEW IF EXISTS reporting.recurring_revenue, reporting.recurring_items, reporting.unknown_taxes;

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

GRANT SELECT ON reporting.recurring_items, reporting.recurring_revenue TO billing_worker;

DROP FUNCTION IF EXISTS billing_untaxed_share(uuid, text, text);
DROP FUNCTION IF EXISTS billing_monthly_amount(
  numeric, bigint, bigint, text, text, integer, numeric[]);
REVOKE DELETE ON billing_revenue_balances, billing_revenue_movements, billing_revenue_months
  FROM billing_worker;
ALTER TABLE billing_subscription_items
  DROP COLUMN IF EXISTS quantity_divide_by,
  DROP COLUMN IF EXISTS quantity_round,
  DROP COLUMN IF EXISTS tax_behavior,
  DROP COLUMN IF EXISTS included_tax_percent;
ALTER TABLE billing_subscriptions DROP COLUMN IF EXISTS collection_paused;

DELETE FROM billing_schema_migrations WHERE version = '20260130020000';
COMMIT;
