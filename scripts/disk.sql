-- How much disk events take (docs/capacity.md). Run it as the owner on a scratch
-- database that has the migrations and nothing else:
--
--   psql SCRATCH -v events=100000 -v payload="$(cat event.json)" -f scripts/disk.sql
--
-- `event.json` is an event as Stripe sends it. Each goes through what the service does: stored,
-- leased, marked processed, noted as applied, with one audit entry. Then as many usage
-- events are recorded. Sizes include indexes and TOAST, after VACUUM.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages TO warning;
SET synchronous_commit TO off;

CREATE TEMP TABLE organization AS
  SELECT n, gen_random_uuid() AS id FROM generate_series(0, 999) AS n;

CREATE TEMP TABLE measured (what text, bytes bigint);
CREATE FUNCTION pg_temp.measure(what text, VARIADIC relations text[]) RETURNS void LANGUAGE sql AS $$
  INSERT INTO measured
  SELECT what, sum(pg_total_relation_size(name::regclass)) FROM unnest(relations) AS name
$$;

-- Stripe's ids differ, so each payload has one of its own in several places.
INSERT INTO webhook_events (bucket, stripe_event_id, event_type, api_version, livemode,
                            event_created_at, payload)
SELECT (random() * 1023)::int, 'evt_1' || md5(n::text), 'customer.subscription.updated',
       '2025-03-31.basil', true, now(),
       replace(replace(:'payload', 'evt_', 'evt_1' || left(md5(n::text), 24)),
               'sub_', 'sub_1' || left(md5('s' || n), 24))::json
  FROM generate_series(1, :events) AS n;

-- Rounds, with VACUUM between them as autovacuum would.
SELECT format($$UPDATE webhook_events SET lease_id = gen_random_uuid(), lease_expires_at = now()
                 WHERE abs(hashtext(stripe_event_id)) %% 10 = %s$$, n),
       format($$UPDATE webhook_events e
                   SET processed = true, processed_at = now(), outcome = 'applied', lease_id = NULL,
                       lease_expires_at = NULL, organization_id = o.id
                  FROM organization o
                 WHERE abs(hashtext(stripe_event_id)) %% 10 = %s
                   AND o.n = abs(hashtext(stripe_event_id)) %% 1000$$, n),
       'VACUUM webhook_events'
  FROM generate_series(0, 9) AS n \gexec
SELECT pg_temp.measure('events, processed', 'webhook_events');

INSERT INTO billing_applied_events (organization_id, stripe_event_id, event_type, resource_id,
                                    event_created_at)
SELECT organization_id, stripe_event_id, event_type, 'sub_1' || left(md5(stripe_event_id), 24), now()
  FROM webhook_events;
SELECT pg_temp.measure('which events were applied', 'billing_applied_events');

SELECT count(log_billing_action(
    e.organization_id, 'subscription_updated', 'webhook', NULL, 'subscription',
    'sub_1' || left(md5(e.stripe_event_id), 24), state, state,
    jsonb_build_object('stripe_event_id', e.stripe_event_id, 'event_type', e.event_type)))
  FROM webhook_events e,
       LATERAL (SELECT jsonb_build_object(
         'status', 'active', 'planTier', 'standard', 'stripeCustomerId', 'cus_' || left(md5(e.stripe_event_id), 14),
         'currency', 'usd', 'currentPeriodStart', now(), 'currentPeriodEnd', now(),
         'billingCycleAnchor', now(), 'billingMode', 'classic', 'collectionMethod', 'charge_automatically',
         'trialStart', null, 'trialEnd', null, 'cancelAt', null, 'cancelAtPeriodEnd', false,
         'canceledAt', null, 'endedAt', null, 'latestInvoiceId', 'in_1' || left(md5(e.stripe_event_id), 24),
         'defaultPaymentMethodId', 'pm_1' || left(md5(e.stripe_event_id), 24), 'discounted', false,
         'taxed', false, 'pendingUpdate', false, 'metadata', left(md5(e.stripe_event_id), 16),
         'items', (SELECT jsonb_agg(jsonb_build_object(
                            'price', 'price_1' || left(md5(e.stripe_event_id || n), 24), 'quantity', 1))
                     FROM generate_series(1, 5) AS n)) AS state) shown \g /dev/null
SELECT pg_temp.measure('audit entries', 'billing_audit_log', 'billing_audit_chain_heads', 'billing_audit_personal_data');

INSERT INTO usage_events (organization_id, event_id, metric, quantity, occurred_at, recorded_at,
                          period_start)
SELECT o.id, gen_random_uuid()::text, 'api_calls', 1, NULL, now() + s.n * interval '1 millisecond',
       date_trunc('month', now())
  FROM generate_series(1, :events) AS s(n) JOIN organization o ON o.n = abs(hashint4(s.n)) % 1000;
VACUUM usage_events;
SELECT pg_temp.measure('usage events', 'usage_events');

UPDATE webhook_events SET payload = '{"removed": true}', payload_removed_at = now();
VACUUM FULL webhook_events;
SELECT pg_temp.measure('events without their payload', 'webhook_events');

\unset QUIET
SELECT what, pg_size_pretty(bytes) AS measured,
       pg_size_pretty((bytes * 1000000.0 / :events)::bigint) AS per_million
  FROM measured;
