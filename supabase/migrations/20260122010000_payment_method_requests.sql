-- Requests to Stripe about payment methods: which one is charged, and the end of one.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_stripe_requests
  DROP CONSTRAINT IF EXISTS billing_stripe_requests_subject_check,
  ADD CONSTRAINT billing_stripe_requests_subject_check
    CHECK (subject IN ('customer', 'subscription', 'payment_method'));

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260122010000', 'payment_method_requests') ON CONFLICT DO NOTHING;
COMMIT;
