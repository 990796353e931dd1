-- When a request's latest call to Stripe began: it may be under way long after the
-- request was entered.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_stripe_requests ADD COLUMN IF NOT EXISTS called_at timestamptz;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119030000', 'request_calls') ON CONFLICT DO NOTHING;
COMMIT;
