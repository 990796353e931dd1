-- The audit log: append-only, and chained by hash for each organization.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- No foreign key to organizations: the log outlives them.
CREATE TABLE IF NOT EXISTS billing_audit_log (
  organization_id uuid NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  -- The place in the organization's chain; null for test entries, which are
  -- outside of it.
  sequence bigint CHECK (sequence > 0),
  action text NOT NULL CHECK (action <> ''),
  actor_type text NOT NULL CHECK (actor_type IN ('user', 'system', 'webhook', 'api_key')),
  actor_id uuid,
  resource_type text NOT NULL,
  resource_id text,
  before_state jsonb,
  after_state jsonb,
  metadata jsonb,
  ip_address inet,
  user_agent text,
  created_at timestamptz NOT NULL,
  hash bytea,
  PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, sequence),
  CHECK ((action = 'test_action') = (sequence IS NULL)),
  CHECK ((sequence IS NULL) = (hash IS NULL))
);
CREATE INDEX IF NOT EXISTS billing_audit_log_created_idx
  ON billing_audit_log (organization_id, created_at DESC);

-- The last entry of each chain. Locking its row is what puts an
-- organization's changes one after another.
CREATE TABLE IF NOT EXISTS billing_audit_chain_heads (
  organization_id uuid PRIMARY KEY,
  last_sequence bigint NOT NULL CHECK (last_sequence >= 0),
  last_hash bytea NOT NULL
);

-- sha256(previous hash, each field as length:text, or - where null). Lengths
-- are in bytes of UTF-8, times in microseconds since 1970, so that the same
-- can be computed outside of the database.
CREATE OR REPLACE FUNCTION billing_audit_entry_hash(
  p_previous_hash bytea,
  p_organization_id uuid,
  p_id uuid,
  p_sequence bigint,
  p_action text,
  p_actor_type text,
  p_actor_id uuid,
  p_resource_type text,
  p_resource_id text,
  p_before_state jsonb,
  p_after_state jsonb,
  p_metadata jsonb,
  p_ip_address inet,
  p_user_agent text,
  p_created_at timestamptz
) RETURNS bytea
  LANGUAGE plpgsql STABLE SECURITY INVOKER PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  before_text text := p_before_state::text;
  after_text text := p_after_state::text;
  metadata_text text := p_metadata::text;
  micros text := (extract(epoch FROM p_created_at) * 1000000)::bigint::text;
BEGIN
  RETURN sha256(p_previous_hash || convert_to(concat(
    '36:', p_organization_id, '36:', p_id, length(p_sequence::text), ':', p_sequence,
    octet_length(p_action), ':', p_action,
    octet_length(p_actor_type), ':', p_actor_type,
    coalesce('36:' || p_actor_id, '-'),
    octet_length(p_resource_type), ':', p_resource_type,
    coalesce(octet_length(p_resource_id) || ':' || p_resource_id, '-'),
    coalesce(octet_length(before_text) || ':' || before_text, '-'),
    coalesce(octet_length(after_text) || ':' || after_text, '-'),
    coalesce(octet_length(metadata_text) || ':' || metadata_text, '-'),
    coalesce(length(p_ip_address::text) || ':' || p_ip_address::text, '-'),
    coalesce(octet_length(p_user_agent) || ':' || p_user_agent, '-'),
    length(micros), ':', micros
  ), 'UTF8'));
END
$$;
REVOKE ALL ON FUNCTION billing_audit_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_audit_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text, timestamptz) TO billing_app, billing_worker;

CREATE OR REPLACE FUNCTION log_billing_action(
  p_organization_id uuid,
  p_action text,
  p_actor_type text,
  p_actor_id uuid DEFAULT NULL,
  p_resource_type text DEFAULT NULL,
  p_resource_id text DEFAULT NULL,
  p_before_state jsonb DEFAULT NULL,
  p_after_state jsonb DEFAULT NULL,
  p_metadata jsonb DEFAULT NULL,
  p_ip_address inet DEFAULT NULL,
  p_user_agent text DEFAULT NULL
) RETURNS uuid
  LANGUAGE plpgsql VOLATILE SECURITY INVOKER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  new_id uuid := gen_random_uuid();
  new_sequence bigint;
  new_time timestamptz;
  -- The previous entry's, until this one is hashed.
  new_hash bytea;
BEGIN
  IF p_organization_id IS NULL THEN
    RAISE EXCEPTION 'log_billing_action needs an organization: p_organization_id is null'
      USING ERRCODE = 'not_null_violation',
            HINT = 'Is there a row in organizations? `valuecanvas-billing organizations create` makes one.';
  END IF;

  IF p_action IS DISTINCT FROM 'test_action' THEN
    SELECT h.last_sequence + 1, h.last_hash INTO new_sequence, new_hash
      FROM public.billing_audit_chain_heads h
     WHERE h.organization_id = p_organization_id FOR UPDATE;
    IF NOT FOUND THEN
      INSERT INTO public.billing_audit_chain_heads (organization_id, last_sequence, last_hash)
        VALUES (p_organization_id, 0, sha256('')) ON CONFLICT DO NOTHING;
      SELECT h.last_sequence + 1, h.last_hash INTO STRICT new_sequence, new_hash
        FROM public.billing_audit_chain_heads h
       WHERE h.organization_id = p_organization_id FOR UPDATE;
    END IF;
  END IF;

  -- After the lock, so that times follow the chain.
  new_time := clock_timestamp();

  IF new_sequence IS NOT NULL THEN
    new_hash := public.billing_audit_entry_hash(
      new_hash, p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id,
      p_resource_type, p_resource_id, p_before_state, p_after_state, p_metadata, p_ip_address,
      p_user_agent, new_time);
    UPDATE public.billing_audit_chain_heads h
       SET last_sequence = new_sequence, last_hash = new_hash
     WHERE h.organization_id = p_organization_id;
  END IF;

  INSERT INTO public.billing_audit_log (
    organization_id, id, sequence, action, actor_type, actor_id, resource_type, resource_id,
    before_state, after_state, metadata, ip_address, user_agent, created_at, hash
  ) VALUES (
    p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id, p_resource_type,
    p_resource_id, p_before_state, p_after_state, p_metadata, p_ip_address, p_user_agent,
    new_time, new_hash
  );
  RETURN new_id;
END
$$;
COMMENT ON FUNCTION log_billing_action(uuid, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text) IS
  'Appends an entry to the organization''s audit chain and returns its id.';
REVOKE ALL ON FUNCTION
  log_billing_action(uuid, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  log_billing_action(uuid, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text)
  TO billing_app, billing_worker;

CREATE OR REPLACE FUNCTION billing_audit_log_refuse_change() RETURNS trigger
  LANGUAGE plpgsql SECURITY INVOKER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF TG_OP = 'DELETE' AND OLD.action = 'test_action'
     AND pg_has_role(current_user, 'billing_owner', 'USAGE') THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'billing_audit_log is append-only: % is refused', lower(TG_OP)
    USING ERRCODE = 'insufficient_privilege',
          HINT = 'Only the owner may delete entries, and only those with action test_action.';
END
$$;
CREATE OR REPLACE FUNCTION billing_audit_chain_heads_refuse_change() RETURNS trigger
  LANGUAGE plpgsql SECURITY INVOKER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.organization_id = OLD.organization_id
     AND NEW.last_sequence > OLD.last_sequence THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'an audit chain only grows: % of its head is refused', lower(TG_OP)
    USING ERRCODE = 'insufficient_privilege',
          HINT = 'Append entries with log_billing_action().';
END
$$;
REVOKE ALL ON FUNCTION billing_audit_log_refuse_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION billing_audit_chain_heads_refuse_change() FROM PUBLIC;

CREATE OR REPLACE TRIGGER billing_audit_log_append_only
  BEFORE UPDATE OR DELETE ON billing_audit_log
  FOR EACH ROW EXECUTE FUNCTION billing_audit_log_refuse_change();
CREATE OR REPLACE TRIGGER billing_audit_log_no_truncate
  BEFORE TRUNCATE ON billing_audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION billing_audit_log_refuse_change();
CREATE OR REPLACE TRIGGER billing_audit_chain_heads_grow_only
  BEFORE UPDATE OR DELETE ON billing_audit_chain_heads
  FOR EACH ROW EXECUTE FUNCTION billing_audit_chain_heads_refuse_change();
CREATE OR REPLACE TRIGGER billing_audit_chain_heads_no_truncate
  BEFORE TRUNCATE ON billing_audit_chain_heads
  FOR EACH STATEMENT EXECUTE FUNCTION billing_audit_chain_heads_refuse_change();

ALTER TABLE billing_audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_audit_log FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_audit_log_owner ON billing_audit_log;
CREATE POLICY billing_audit_log_owner ON billing_audit_log TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_audit_log_select ON billing_audit_log;
CREATE POLICY billing_audit_log_select ON billing_audit_log FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_audit_log_append ON billing_audit_log;
CREATE POLICY billing_audit_log_append ON billing_audit_log FOR INSERT TO billing_app
  WITH CHECK (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_audit_log_worker ON billing_audit_log;
CREATE POLICY billing_audit_log_worker ON billing_audit_log TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT ON billing_audit_log TO billing_app, billing_worker;

ALTER TABLE billing_audit_chain_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_audit_chain_heads FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_audit_chain_heads_owner ON billing_audit_chain_heads;
CREATE POLICY billing_audit_chain_heads_owner ON billing_audit_chain_heads TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_audit_chain_heads_app ON billing_audit_chain_heads;
CREATE POLICY billing_audit_chain_heads_app ON billing_audit_chain_heads TO billing_app
  USING (organization_id = auth.get_current_org_id())
  WITH CHECK (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_audit_chain_heads_worker ON billing_audit_chain_heads;
CREATE POLICY billing_audit_chain_heads_worker ON billing_audit_chain_heads TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE ON billing_audit_chain_heads TO billing_app, billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101091000', 'billing_audit_log') ON CONFLICT DO NOTHING;
COMMIT;
