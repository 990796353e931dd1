-- Mails to customers: each fact once, and how far the search for facts has come.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS mails (
  organization_id uuid NOT NULL,
  -- Also in Message-ID, which stays the same when a mail is sent twice.
  id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('payment_failed', 'action_required', 'trial_ending',
                                     'card_expiring', 'quota_warning', 'quota_reached')),
  -- What it tells of, unique within its kind.
  fact text NOT NULL CHECK (fact <> ''),
  -- The invoice, subscription, payment method or metric.
  resource_id text NOT NULL,
  -- When the trial ends, or the quota's period began.
  about_at timestamptz,
  happened_at timestamptz NOT NULL,
  status text NOT NULL DEFAULT 'pending'
    CHECK (status IN ('pending', 'sent', 'failed', 'withdrawn')),
  attempts integer NOT NULL DEFAULT 0,
  -- When it is due, or the sender's lease ends.
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  lease_id uuid,
  -- The address that it was last sent to.
  recipient text,
  -- Why it was not sent, or not yet.
  error_message text,
  queued_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, kind, fact),
  CHECK ((status = 'pending') = (ended_at IS NULL))
);
CREATE INDEX IF NOT EXISTS mails_due_idx ON mails (next_attempt_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS mails_waiting_idx ON mails (queued_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS mails_newest_idx ON mails (queued_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS mails_organization_idx
  ON mails (organization_id, queued_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS mails_ended_idx ON mails (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS mails_unsent_idx ON mails (status, ended_at)
  WHERE status IN ('failed', 'withdrawn');
CREATE INDEX IF NOT EXISTS mails_id_idx ON mails (id);

-- Since when mails are sent: one row, which is also the lock of the search for facts.
CREATE TABLE IF NOT EXISTS mail_switch (
  name text PRIMARY KEY CHECK (name = 'mails'),
  -- What happened before is told to nobody.
  switched_on_at timestamptz NOT NULL,
  -- The last search. After a day without one, mails count as switched off.
  searched_at timestamptz NOT NULL
);

DO $$ BEGIN
  IF pg_relation_size('usage_alerts') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS usage_alerts_raised_idx ON usage_alerts (raised_at);
  END IF;
  IF pg_relation_size('billing_payment_methods') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_payment_methods_expiry_idx
      ON billing_payment_methods (exp_year, exp_month) WHERE status = 'attached';
  END IF;
END $$;

ALTER TABLE mails ENABLE ROW LEVEL SECURITY;
ALTER TABLE mails FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS mails_owner ON mails;
CREATE POLICY mails_owner ON mails TO billing_owner USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS mails_worker ON mails;
CREATE POLICY mails_worker ON mails TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON mails TO billing_worker;

ALTER TABLE mail_switch ENABLE ROW LEVEL SECURITY;
ALTER TABLE mail_switch FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS mail_switch_owner ON mail_switch;
CREATE POLICY mail_switch_owner ON mail_switch TO billing_owner USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS mail_switch_worker ON mail_switch;
CREATE POLICY mail_switch_worker ON mail_switch TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON mail_switch TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130010000', 'mails') ON CONFLICT DO NOTHING;
COMMIT;
