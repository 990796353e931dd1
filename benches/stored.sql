-- A large installation, made by SQL: :events webhook events and :organizations
-- organizations, everything else in proportion. Run by scripts/bench stored.
\set ON_ERROR_STOP on
SET client_min_messages TO warning;
-- As bucket_of() has it.
CREATE FUNCTION pg_temp.bucket(id text) RETURNS smallint LANGUAGE sql IMMUTABLE AS
  $$ SELECT (((get_byte(sha256(id::bytea), 0) << 8) | get_byte(sha256(id::bytea), 1)) % 1024)::smallint $$;

INSERT INTO organizations (id, name, plan_tier, external_id, email)
  SELECT md5('org' || n)::uuid, 'Organization ' || n, (ARRAY['free', 'standard', 'enterprise'])[1 + n % 3],
         'ext_' || n, 'billing' || n || '@example.com'
    FROM generate_series(1, :organizations) n;
INSERT INTO billing_customers (stripe_customer_id, organization_id)
  SELECT 'cus_' || n, md5('org' || n)::uuid FROM generate_series(1, :organizations) n;
INSERT INTO usage_quotas (organization_id, metric, plan_tier, quota, over_limit)
  SELECT md5('org' || n)::uuid, m, 'standard', 1000000, 'grace'
    FROM generate_series(1, :organizations) n,
         unnest(ARRAY['llm_tokens', 'agent_executions', 'api_calls', 'storage_gb', 'user_seats']) m;
INSERT INTO billing_subscriptions (
    organization_id, stripe_subscription_id, stripe_customer_id, status, stripe_status, plan_tier, currency,
    current_period_start, current_period_end, billing_cycle_anchor, collection_method, livemode,
    stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids)
  SELECT md5('org' || n)::uuid, 'sub_' || n, 'cus_' || n,
         (ARRAY['active', 'active', 'active', 'past_due', 'canceled'])[1 + n % 5],
         (ARRAY['active', 'active', 'active', 'past_due', 'canceled'])[1 + n % 5],
         (ARRAY['standard', 'enterprise'])[1 + n % 2], 'usd', date_trunc('month', now()),
         date_trunc('month', now()) + interval '1 month', date_trunc('month', now()), 'charge_automatically',
         false, now() - interval '400 days', now() - interval '10 days', 1, 'evt_sub_' || n,
         ARRAY['evt_sub_' || n]
    FROM generate_series(1, :organizations) n;
UPDATE billing_subscriptions SET ended_at = now() - interval '20 days' WHERE status = 'canceled';
INSERT INTO billing_subscription_items (
    organization_id, stripe_subscription_id, stripe_subscription_item_id, stripe_price_id, lookup_key,
    usage_type, unit_amount, currency, recurring_interval, recurring_interval_count, quantity,
    current_period_start, current_period_end)
  SELECT md5('org' || n)::uuid, 'sub_' || n, 'si_' || n, 'price_' || n % 2,
         (ARRAY['valuecanvas_standard_monthly', 'valuecanvas_enterprise_monthly'])[1 + n % 2], 'licensed', 9900,
         'usd', 'month', 1, 1, date_trunc('month', now()), date_trunc('month', now()) + interval '1 month'
    FROM generate_series(1, :organizations) n;
INSERT INTO billing_invoices (
    organization_id, stripe_invoice_id, stripe_customer_id, stripe_subscription_id, number, status, currency,
    subtotal_amount, total_amount, amount_due, amount_paid, amount_remaining, livemode, stripe_created_at,
    last_event_at, last_event_rank, last_event_id, tied_event_ids)
  SELECT md5('org' || n)::uuid, 'in_' || n || '_' || k, 'cus_' || n, 'sub_' || n, 'A-' || n || '-' || k,
         CASE WHEN (n + k) % 50 = 0 THEN 'open' ELSE 'paid' END, 'usd', 9900, 9900, 9900, 9900, 0, false,
         now() - k * interval '30 days', now() - k * interval '30 days', 1, 'evt_in_' || n || '_' || k,
         ARRAY['evt_in_' || n || '_' || k]
    FROM generate_series(1, :organizations) n, generate_series(1, 6) k;
INSERT INTO billing_invoice_items (
    organization_id, stripe_invoice_id, stripe_line_item_id, position, amount, currency, proration)
  SELECT organization_id, stripe_invoice_id, 'il_' || stripe_invoice_id, 0, 9900, 'usd', false
    FROM billing_invoices;
INSERT INTO billing_charges (
    organization_id, stripe_charge_id, stripe_customer_id, status, currency, amount, amount_captured,
    amount_refunded, paid, captured, refunded, disputed, livemode, stripe_created_at, last_event_at,
    last_event_rank, last_event_id, tied_event_ids)
  SELECT organization_id, 'ch_' || stripe_invoice_id, stripe_customer_id, 'succeeded', 'usd', 9900, 9900, 0,
         true, true, false, false, false, stripe_created_at, last_event_at, 1, 'evt_ch_' || stripe_invoice_id,
         ARRAY['evt_ch_' || stripe_invoice_id]
    FROM billing_invoices WHERE status = 'paid';
INSERT INTO billing_payment_methods (
    organization_id, stripe_payment_method_id, stripe_customer_id, status, type, brand, last4, livemode,
    last_event_at, last_event_rank, last_event_id, tied_event_ids)
  SELECT md5('org' || n)::uuid, 'pm_' || n, 'cus_' || n, 'attached', 'card', 'visa', '4242', false, now(), 1,
         'evt_pm_' || n, ARRAY['evt_pm_' || n]
    FROM generate_series(1, :organizations) n;

INSERT INTO usage_denials (organization_id, id, request_id, denied_at, reason, metric, usage, quota)
  SELECT md5('org' || n)::uuid, gen_random_uuid(), 'req_' || n, now() - n * interval '1 second', 'QUOTA_EXCEEDED',
         'api_calls', 40, 40
    FROM generate_series(1, :organizations) n;

-- Seven in a hundred events wait for their next attempt, failed once, or are of a
-- rare type; those of more than 90 days ago have lost their payload.
-- Indexes are made faster once the rows are there.
CREATE TEMP TABLE indexes AS
  SELECT indexdef FROM pg_indexes
   WHERE tablename IN ('webhook_events', 'usage_events', 'billing_applied_events') AND indexname NOT LIKE '%_pkey';
SELECT format('DROP INDEX %I', indexname) FROM pg_indexes
 WHERE tablename IN ('webhook_events', 'usage_events', 'billing_applied_events') AND indexname NOT LIKE '%_pkey'
\gexec
INSERT INTO webhook_events (
    bucket, stripe_event_id, event_type, api_version, livemode, event_created_at, payload, received_at,
    processed, processed_at, outcome, organization_id, retry_count, payload_removed_at)
  SELECT pg_temp.bucket('evt_' || n), 'evt_' || n,
         CASE WHEN n % 10000 = 0 THEN 'charge.dispute.created'
              ELSE (ARRAY['invoice.paid', 'customer.subscription.updated', 'charge.succeeded',
                          'invoice.finalized'])[1 + n % 4] END,
         '2025-03-31.basil', false, at, CASE WHEN old THEN '{"removed": true}' ELSE '{"id": 1}' END::json, at,
         true, at + interval '1 second', 'applied', md5('org' || 1 + n % :organizations)::uuid,
         CASE WHEN n % 50 = 0 THEN 1 ELSE 0 END, CASE WHEN old THEN at + interval '90 days' END
    FROM generate_series(1, :events) n,
         LATERAL (SELECT now() - (:events - n) * (interval '399 days' / :events) AS at) t,
         LATERAL (SELECT at < now() - interval '90 days' AS old) o;
INSERT INTO webhook_events (
    bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at, retry_count,
    next_retry_at, error_message)
  SELECT pg_temp.bucket('evt_waits_' || n), 'evt_waits_' || n, 'invoice.paid', false, now(), '{"id": 1}', now() - interval '1 hour', 3,
         now() + interval '50 minutes', 'the customer is nobody''s yet'
    FROM generate_series(1, :events / 1000) n;
INSERT INTO webhook_dead_letter_queue (
    bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at, organization_id,
    retry_count, error_message, attempts, dead_lettered_at)
  SELECT pg_temp.bucket('evt_dead_' || n), 'evt_dead_' || n, 'invoice.paid', false, now(), '{"id": 1}', now() - interval '3 days',
         md5('org' || n)::uuid, 20, 'no', '[]', now() - n * interval '1 minute'
    FROM generate_series(1, :events / 5000) n;
INSERT INTO billing_applied_events (organization_id, stripe_event_id, event_type, resource_id, event_created_at)
  SELECT organization_id, stripe_event_id, event_type, 'sub_' || substr(stripe_event_id, 5), event_created_at
    FROM webhook_events WHERE processed AND event_type = 'customer.subscription.updated';

INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total, events)
  SELECT q.organization_id, q.metric, p, p + interval '1 month', 40, 40
    FROM usage_quotas q, generate_series(date_trunc('month', now(), 'UTC') - interval '1 month',
                                         date_trunc('month', now(), 'UTC'), interval '1 month') p;
INSERT INTO usage_events (organization_id, event_id, metric, quantity, recorded_at, period_start)
  SELECT md5('org' || 1 + n % :organizations)::uuid, 'use_' || n, 'api_calls', 1, at,
         date_trunc('month', at, 'UTC')
    FROM generate_series(1, :events / 2) n,
         LATERAL (SELECT now() - (:events / 2 - n) * (interval '399 days' / (:events / 2)) AS at) t;
SELECT indexdef FROM indexes
\gexec
INSERT INTO grace_periods (
    organization_id, metric, period_start, period_end, quota, usage_at_start, started_at, expires_at, ended_at,
    end_reason)
  SELECT md5('org' || n)::uuid, 'api_calls', now() - k * interval '30 days',
         now() - (k - 1) * interval '30 days' + interval '1 day', 1, 2, now() - k * interval '30 days',
         now() - k * interval '30 days' + interval '1 day',
         CASE WHEN k > 1 THEN now() - k * interval '30 days' + interval '1 day' END,
         CASE WHEN k > 1 THEN 'expired' END
    FROM generate_series(1, :organizations / 10) n, generate_series(1, 3) k;
UPDATE grace_periods SET expires_at = now() + interval '1 hour' WHERE ended_at IS NULL;
INSERT INTO usage_alerts (
    organization_id, metric, period_start, threshold, id, period_end, usage, quota, raised_at, next_attempt_at,
    delivered_at)
  SELECT md5('org' || n)::uuid, 'api_calls', now() - interval '20 days', t, gen_random_uuid(),
         now() + interval '10 days', 1, 1, now(), now(), now()
    FROM generate_series(1, :organizations) n, unnest(ARRAY[80, 100]) t;
INSERT INTO billing_alerts (organization_id, kind, alert_key, resource_type, resource_id, message, occurred_at)
  SELECT md5('org' || n)::uuid, 'payment_failed', 'in_' || n, 'invoice', 'in_' || n, 'no', now()
    FROM generate_series(1, :organizations / 5) n;
INSERT INTO users (id, email) SELECT md5('user' || n)::uuid, 'user' || n || '@example.com'
    FROM generate_series(1, :organizations) n;
INSERT INTO organization_members (organization_id, user_id, role)
  SELECT md5('org' || n)::uuid, md5('user' || n)::uuid, 'owner' FROM generate_series(1, :organizations) n;
INSERT INTO user_sessions (token_hash, user_id, for_organization_id, expires_at)
  SELECT sha256(('s' || n)::bytea), md5('user' || n)::uuid, md5('org' || n)::uuid,
         now() + interval '1 hour' * (n % 24)
    FROM generate_series(1, :organizations) n;
INSERT INTO login_throttles (throttle_key) SELECT sha256(('t' || n)::bytea)
    FROM generate_series(1, :organizations) n;
INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes)
  SELECT md5('org' || n)::uuid, gen_random_uuid(), 'key', 'vck_' || n, sha256(('k' || n)::bytea),
         ARRAY['billing.read']
    FROM generate_series(1, :organizations) n;
INSERT INTO request_idempotency (
    organization_id, idempotency_key, fingerprint, lease_id, lease_expires_at, expires_at, status, headers, body)
  SELECT md5('org' || n)::uuid, 'k', sha256('x'), gen_random_uuid(), now(), now() + interval '1 hour' * (n % 24),
         200, '[]', 'x'
    FROM generate_series(1, :organizations) n;
INSERT INTO billing_job_runs (id, job, started_at, finished_at, succeeded, counters)
  SELECT gen_random_uuid(), j, now() - n * interval '5 minutes', now() - n * interval '5 minutes', true,
         '{"stripe_webhook_events_total{status=\"processed\"}": 5}'
    FROM generate_series(1, 8600) n, unnest(ARRAY['webhook-retry', 'usage-report']) j;
SELECT count(public.log_billing_action(
         p_organization_id => md5('org' || n)::uuid, p_action => 'invoice_paid', p_actor_type => 'webhook',
         p_actor_id => NULL, p_resource_type => 'invoice', p_resource_id => 'in_' || n || '_' || k,
         p_before_state => NULL, p_after_state => '{}', p_metadata => '{}', p_ip_address => NULL,
         p_user_agent => NULL))
  FROM generate_series(1, :organizations) n, generate_series(1, 4) k;
