-- What recurring revenue rests on besides price and quantity: packages, included tax, and
-- whether collection is paused (docs/reporting.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_subscriptions
  -- What becomes of invoices while collection is paused, as Stripe says it; null: it is not.
  ADD COLUMN IF NOT EXISTS collection_paused text;
ALTER TABLE billing_subscription_items
  -- The quantity is sold in packages of so many, rounded `up` or `down`.
  ADD COLUMN IF NOT EXISTS quantity_divide_by bigint,
  ADD COLUMN IF NOT EXISTS quantity_round text,
  ADD COLUMN IF NOT EXISTS tax_behavior text,
  -- The tax rates that the amount includes, added up.
  ADD COLUMN IF NOT EXISTS included_tax_percent numeric;

-- The journal can be written anew.
GRANT DELETE ON billing_revenue_balances, billing_revenue_movements, billing_revenue_months
  TO billing_worker;

-- What an item comes to a month, in minor units, without the tax that its price includes.
CREATE OR REPLACE FUNCTION billing_monthly_amount(
  p_unit_amount numeric,
  p_quantity bigint,
  p_divide_by bigint,
  p_round text,
  p_interval text,
  p_interval_count integer,
  -- Of how much with tax how much is without it; null: none is included.
  p_untaxed numeric[]
) RETURNS bigint
  LANGUAGE sql IMMUTABLE SECURITY INVOKER PARALLEL SAFE
  RETURN round(
    p_unit_amount
    * CASE WHEN p_divide_by > 0
           THEN coalesce(p_quantity, 1) / p_divide_by
                + CASE WHEN p_round = 'up' AND coalesce(p_quantity, 1) % p_divide_by > 0
                       THEN 1 ELSE 0 END
           ELSE coalesce(p_quantity, 1) END
    * CASE p_interval WHEN 'day' THEN 365 WHEN 'week' THEN 52 WHEN 'month' THEN 12
                      WHEN 'year' THEN 1 END
    * coalesce(p_untaxed[1], 1)
    / (12 * coalesce(p_interval_count, 1) * coalesce(p_untaxed[2], 1)))::bigint;

-- How much of an amount is without tax, as the newest invoice with this price has it: where Stripe
-- computes the tax, only invoices show it.
CREATE OR REPLACE FUNCTION billing_untaxed_share(
  p_organization_id uuid,
  p_subscription_id text,
  p_price_id text
) RETURNS numeric[]
  LANGUAGE sql STABLE SECURITY INVOKER PARALLEL SAFE
  RETURN (
    SELECT ARRAY[l.amount - l.discount_amount - l.included_tax_amount,
                 l.amount - l.discount_amount]::numeric[]
      FROM public.billing_invoices i
      JOIN public.billing_invoice_items l
        ON l.organization_id = i.organization_id AND l.stripe_invoice_id = i.stripe_invoice_id
     WHERE i.organization_id = p_organization_id
       AND i.stripe_subscription_id = p_subscription_id
       AND i.status <> 'draft'
       AND l.stripe_price_id = p_price_id
       AND l.amount > l.discount_amount
     ORDER BY i.stripe_created_at DESC NULLS LAST, l.amount DESC, l.stripe_line_item_id
     LIMIT 1);

REVOKE ALL ON FUNCTION billing_monthly_amount(
  numeric, bigint, bigint, text, text, integer, numeric[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_monthly_amount(
  numeric, bigint, bigint, text, text, integer, numeric[]) TO billing_app, billing_worker;
REVOKE ALL ON FUNCTION billing_untaxed_share(uuid, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_untaxed_share(uuid, text, text) TO billing_app, billing_worker;

-- As before, and with packages, without included tax, and without what is not collected.
CREATE OR REPLACE VIEW reporting.recurring_items WITH (security_invoker = true) AS
  SELECT s.organization_id, s.stripe_subscription_id, i.stripe_subscription_item_id, s.status,
         s.plan_tier, i.addon, i.seats, lower(coalesce(i.currency, s.currency)) AS currency,
         coalesce(i.quantity, 1) AS quantity,
         coalesce(i.unit_amount_decimal, i.unit_amount) AS unit_amount,
         i.recurring_interval, coalesce(i.recurring_interval_count, 1) AS recurring_interval_count,
         public.billing_monthly_amount(
           coalesce(i.unit_amount_decimal, i.unit_amount), i.quantity, i.quantity_divide_by,
           i.quantity_round, i.recurring_interval, i.recurring_interval_count, tax.untaxed)
           AS monthly_amount,
         -- A discount that ended stays in the mirror until Stripe shows its owner without it.
         EXISTS (SELECT FROM unnest(i.discount_ids || s.discount_ids
                                    || coalesce(c.discount_ids, '{}'::text[])) AS has(id)
                   LEFT JOIN public.billing_discounts d
                     ON d.organization_id = s.organization_id AND d.stripe_discount_id = has.id
                  WHERE d.deleted_at IS NULL AND (d.ends_at IS NULL OR d.ends_at > now()))
           AS discounted,
         -- When it began to be paid for, as far as the mirror knows.
         least(coalesce(s.trial_end, s.stripe_created_at), s.last_event_at) AS began_at
    FROM public.billing_subscriptions s
    JOIN public.billing_subscription_items i
      ON i.organization_id = s.organization_id
     AND i.stripe_subscription_id = s.stripe_subscription_id
    LEFT JOIN public.billing_customers c
      ON c.organization_id = s.organization_id AND c.stripe_customer_id = s.stripe_customer_id
   CROSS JOIN LATERAL (
     SELECT asked.computed,
            CASE WHEN i.included_tax_percent > 0
                 THEN ARRAY[100, 100 + i.included_tax_percent]
                 WHEN asked.computed
                 THEN public.billing_untaxed_share(s.organization_id, s.stripe_subscription_id,
                                                   i.stripe_price_id) END AS untaxed
       FROM (SELECT i.tax_behavior IS NOT DISTINCT FROM 'inclusive' AND s.taxed
                    AND coalesce(i.included_tax_percent, 0) = 0 AS computed) asked) tax
   WHERE s.status IN ('active', 'past_due')
     AND coalesce(s.collection_paused, '') NOT IN ('void', 'mark_uncollectible')
     AND i.usage_type IS DISTINCT FROM 'metered'
     AND i.recurring_interval IS NOT NULL
     -- Sample events are nobody's.
     AND s.organization_id <> '5a3b1e00-0000-7000-8000-000000000001';

-- Items whose price includes a tax that no invoice has shown yet: they count whole.
CREATE OR REPLACE VIEW reporting.unknown_taxes WITH (security_invoker = true) AS
  SELECT s.organization_id, s.stripe_subscription_id, i.stripe_subscription_item_id,
         i.stripe_price_id
    FROM public.billing_subscriptions s
    JOIN public.billing_subscription_items i
      ON i.organization_id = s.organization_id
     AND i.stripe_subscription_id = s.stripe_subscription_id
   WHERE s.status IN ('active', 'past_due') AND s.taxed
     AND i.usage_type IS DISTINCT FROM 'metered'
     AND i.recurring_interval IS NOT NULL
     AND i.tax_behavior = 'inclusive' AND coalesce(i.included_tax_percent, 0) = 0
     AND public.billing_untaxed_share(s.organization_id, s.stripe_subscription_id,
                                      i.stripe_price_id) IS NULL;
GRANT SELECT ON reporting.unknown_taxes TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130020000', 'revenue_terms') ON CONFLICT DO NOTHING;
COMMIT;
