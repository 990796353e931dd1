-- Undoes 20260122010000_payment_method_requests.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- Their effects are in Stripe, and mirrored.
DELETE FROM billing_stripe_requests WHERE subject = 'payment_method';
ALTER TABLE billing_stripe_requests
  DROP CONSTRAINT IF EXISTS billing_stripe_requests_subject_check,
  ADD CONSTRAINT billing_stripe_requests_subject_check
    CHECK (subject IN ('customer', 'subscription'));

DELETE FROM billing_schema_migrations WHERE version = '20260122010000';
COMMIT;
