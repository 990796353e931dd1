-- Cards that have begun a trial, for `[recovery] one_trial_per = "card"`. Known beyond an
-- organization, so that no request sees them: a digest of Stripe's fingerprint, and who had
-- the trial.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS trial_cards (
  digest bytea PRIMARY KEY CHECK (length(digest) = 32),
  organization_id uuid NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS trial_cards_organization_idx ON trial_cards (organization_id);

ALTER TABLE trial_cards ENABLE ROW LEVEL SECURITY;
ALTER TABLE trial_cards FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS trial_cards_owner ON trial_cards;
CREATE POLICY trial_cards_owner ON trial_cards TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS trial_cards_worker ON trial_cards;
CREATE POLICY trial_cards_worker ON trial_cards TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON trial_cards TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260125020000', 'trial_cards') ON CONFLICT DO NOTHING;
COMMIT;
