-- Usage that nothing bills is a finding for as long as Stripe takes usage, by the terms
-- that its period had, and not by those that were bought afterwards.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE usage_totals
  -- When the terms of the period last changed, and what they were until then; null:
  -- never. They are those of a period that had ended, or was cut off by that change.
  ADD COLUMN IF NOT EXISTS terms_kept_at timestamptz,
  ADD COLUMN IF NOT EXISTS kept_quota numeric(24,4),
  ADD COLUMN IF NOT EXISTS kept_over_limit text,
  ADD COLUMN IF NOT EXISTS kept_overage_rate numeric(24,12);

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260118020000', 'kept_terms') ON CONFLICT DO NOTHING;
COMMIT;
