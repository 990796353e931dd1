-- Uses that the product holds by an id of its own, and uses that are taken back.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- A named reservation stays for a while after it was settled, so that it is settled once.
-- It then holds nothing (`quantity` is 0) and never expires (`expires_at` is infinity), so
-- that replicas of the version before leave it alone.
ALTER TABLE usage_reservations
  ADD COLUMN IF NOT EXISTS name text CHECK (name <> ''),
  -- What a named one held.
  ADD COLUMN IF NOT EXISTS held numeric(24,4) CHECK (held > 0),
  ADD COLUMN IF NOT EXISTS settled_at timestamptz,
  ADD COLUMN IF NOT EXISTS outcome text CHECK (outcome IN ('confirmed', 'released', 'expired')),
  -- What was used, and how much of it was counted.
  ADD COLUMN IF NOT EXISTS used numeric(24,4) CHECK (used >= 0),
  ADD COLUMN IF NOT EXISTS counted numeric(24,4) CHECK (counted >= 0),
  -- Why the rest was not.
  ADD COLUMN IF NOT EXISTS refusal text;
CREATE INDEX IF NOT EXISTS usage_reservations_settled_idx ON usage_reservations (settled_at)
  WHERE settled_at IS NOT NULL;

-- A use that was taken back keeps its id, counts nothing (`quantity` is 0), and says how much
-- it was.
ALTER TABLE usage_events
  ADD COLUMN IF NOT EXISTS taken_back numeric(24,4),
  ADD COLUMN IF NOT EXISTS taken_back_at timestamptz;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260123020000', 'holds') ON CONFLICT DO NOTHING;
COMMIT;
