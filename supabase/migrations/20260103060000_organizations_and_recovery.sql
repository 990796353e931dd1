-- What operators know their organizations by, and how recovery of requests to
-- Stripe goes on when one of them cannot be settled.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE organizations
  -- The product's own id.
  ADD COLUMN IF NOT EXISTS external_id text CHECK (length(external_id) BETWEEN 1 AND 255),
  ADD COLUMN IF NOT EXISTS email text CHECK (length(email) BETWEEN 3 AND 320),
  -- When its personal data was removed for good.
  ADD COLUMN IF NOT EXISTS erased_at timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS organizations_external_id_key
  ON organizations (external_id) WHERE external_id IS NOT NULL;

-- When an operator chose this customer: the latest choice counts before the
-- oldest customer.
ALTER TABLE billing_customers
  ADD COLUMN IF NOT EXISTS linked_at timestamptz;

ALTER TABLE billing_stripe_requests
  -- Attempts of recovery that failed, the last one's reason, and when the next
  -- is due.
  ADD COLUMN IF NOT EXISTS recovery_attempts integer NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS recovery_error text,
  ADD COLUMN IF NOT EXISTS next_recovery_at timestamptz,
  -- Recovery gave it up without knowing what Stripe did: for an operator.
  ADD COLUMN IF NOT EXISTS abandoned_at timestamptz;
CREATE INDEX IF NOT EXISTS billing_stripe_requests_abandoned_idx
  ON billing_stripe_requests (abandoned_at) WHERE abandoned_at IS NOT NULL;

ALTER TABLE billing_subscriptions
  -- The same for subscriptions of which Stripe is to be asked again.
  ADD COLUMN IF NOT EXISTS recovery_attempts integer NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS next_recovery_at timestamptz;

-- `organizations erase` removes what names people.
GRANT DELETE ON users, api_keys, billing_payment_methods TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103060000', 'organizations_and_recovery') ON CONFLICT DO NOTHING;
COMMIT;
