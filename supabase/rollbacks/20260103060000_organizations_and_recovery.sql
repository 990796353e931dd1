-- Undoes 20260103060000_organizations_and_recovery.sql. External ids, e-mail addresses, and which
-- customer an operator chose, are lost: back them up first.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF to_regclass('users') IS NOT NULL THEN
    REVOKE DELETE ON users FROM billing_worker;
  END IF;
  IF to_regclass('api_keys') IS NOT NULL THEN
    REVOKE DELETE ON api_keys FROM billing_worker;
  END IF;
  IF to_regclass('billing_payment_methods') IS NOT NULL THEN
    REVOKE DELETE ON billing_payment_methods FROM billing_worker;
  END IF;
END
$$;
ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS next_recovery_at,
  DROP COLUMN IF EXISTS recovery_attempts;
DROP INDEX IF EXISTS billing_stripe_requests_abandoned_idx;
ALTER TABLE IF EXISTS billing_stripe_requests
  DROP COLUMN IF EXISTS abandoned_at,
  DROP COLUMN IF EXISTS next_recovery_at,
  DROP COLUMN IF EXISTS recovery_error,
  DROP COLUMN IF EXISTS recovery_attempts;
ALTER TABLE IF EXISTS billing_customers
  DROP COLUMN IF EXISTS linked_at;
DROP INDEX IF EXISTS organizations_external_id_key;
ALTER TABLE IF EXISTS organizations
  DROP COLUMN IF EXISTS erased_at,
  DROP COLUMN IF EXISTS email,
  DROP COLUMN IF EXISTS external_id;

DELETE FROM billing_schema_migrations WHERE version = '20260103060000';
COMMIT;
