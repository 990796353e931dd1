-- What is personal of an audit entry, beside its chain: an entry has a salted
-- digest of it, so that a change is found, and that it can be erased while the
-- chain stays verifiable.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS billing_audit_personal_data (
  organization_id uuid NOT NULL,
  entry_id uuid NOT NULL,
  -- Random, and erased with the rest: the digest alone tells no address.
  salt bytea NOT NULL CHECK (octet_length(salt) = 16),
  ip_address inet,
  user_agent text,
  -- In the words of whoever acted.
  reason text,
  PRIMARY KEY (organization_id, entry_id)
);
COMMENT ON TABLE billing_audit_personal_data IS
  'Personal data of audit entries, until the organization is erased.';

ALTER TABLE billing_audit_personal_data ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_audit_personal_data FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_audit_personal_data_owner ON billing_audit_personal_data;
CREATE POLICY billing_audit_personal_data_owner ON billing_audit_personal_data TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_audit_personal_data_select ON billing_audit_personal_data;
CREATE POLICY billing_audit_personal_data_select ON billing_audit_personal_data FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_audit_personal_data_append ON billing_audit_personal_data;
CREATE POLICY billing_audit_personal_data_append ON billing_audit_personal_data FOR INSERT TO billing_app
  WITH CHECK (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS billing_audit_personal_data_worker ON billing_audit_personal_data;
CREATE POLICY billing_audit_personal_data_worker ON billing_audit_personal_data TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT ON billing_audit_personal_data TO billing_app;
GRANT SELECT, INSERT, DELETE ON billing_audit_personal_data TO billing_worker;

-- sha256(salt, each field as length:text, or - where null) in hexadecimal, as
-- entries have it in their metadata.
CREATE OR REPLACE FUNCTION billing_audit_personal_digest(
  p_salt bytea,
  p_ip_address inet,
  p_user_agent text,
  p_reason text
) RETURNS text
  LANGUAGE plpgsql STABLE SECURITY INVOKER PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN encode(sha256(p_salt || convert_to(concat(
    coalesce(length(p_ip_address::text) || ':' || p_ip_address::text, '-'),
    coalesce(octet_length(p_user_agent) || ':' || p_user_agent, '-'),
    coalesce(octet_length(p_reason) || ':' || p_reason, '-')
  ), 'UTF8')), 'hex');
END
$$;
REVOKE ALL ON FUNCTION billing_audit_personal_digest(bytea, inet, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_audit_personal_digest(bytea, inet, text, text)
  TO billing_app, billing_worker;

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
  new_hash bytea;
  head_sequence bigint;
  head_hash bytea;
  beyond record;
  new_salt bytea;
  -- A digest of the caller's own would be taken for that of data that were removed.
  new_metadata jsonb := CASE WHEN jsonb_typeof(p_metadata) = 'object'
                             THEN p_metadata - 'personalDigest' ELSE p_metadata END;
  new_ip_address inet := p_ip_address;
  new_user_agent text := p_user_agent;
BEGIN
  IF p_organization_id IS NULL THEN
    RAISE EXCEPTION 'log_billing_action needs an organization: p_organization_id is null'
      USING ERRCODE = 'not_null_violation',
            HINT = 'Is there a row in organizations? `valuecanvas-billing organizations create` makes one.';
  END IF;

  IF p_action IS DISTINCT FROM 'test_action' THEN
    SELECT h.last_sequence, h.last_hash INTO head_sequence, head_hash
      FROM public.billing_audit_chain_heads h
     WHERE h.organization_id = p_organization_id FOR UPDATE;
    IF NOT FOUND THEN
      INSERT INTO public.billing_audit_chain_heads (organization_id, last_sequence, last_hash)
        VALUES (p_organization_id, 0, sha256('')) ON CONFLICT DO NOTHING;
      SELECT h.last_sequence, h.last_hash INTO STRICT head_sequence, head_hash
        FROM public.billing_audit_chain_heads h
       WHERE h.organization_id = p_organization_id FOR UPDATE;
    END IF;
    -- What was put where the next entry is to be is found by `audit verify`; the
    -- chain goes on behind it.
    SELECT l.sequence, l.hash INTO beyond
      FROM public.billing_audit_log l
     WHERE l.organization_id = p_organization_id AND l.sequence > head_sequence
       AND l.sequence - 100000 <= head_sequence
     ORDER BY l.sequence DESC LIMIT 1;
    IF FOUND THEN
      UPDATE public.billing_audit_chain_heads h
         SET last_sequence = beyond.sequence, last_hash = beyond.hash
       WHERE h.organization_id = p_organization_id;
      head_sequence := beyond.sequence;
      head_hash := beyond.hash;
    END IF;
    new_sequence := head_sequence + 1;
  END IF;

  -- After the lock, so that times follow the chain.
  new_time := clock_timestamp();

  -- Test entries are outside of the chain, and deleted by the owner as they are.
  IF new_sequence IS NOT NULL AND coalesce(p_ip_address::text, p_user_agent) IS NOT NULL THEN
    new_salt := uuid_send(gen_random_uuid());
    IF jsonb_typeof(new_metadata) <> 'object' THEN
      new_metadata := jsonb_build_object('metadata', new_metadata);
    END IF;
    new_metadata := coalesce(new_metadata, '{}') || jsonb_build_object(
      'personalDigest',
      public.billing_audit_personal_digest(new_salt, p_ip_address, p_user_agent, NULL));
    INSERT INTO public.billing_audit_personal_data (
      organization_id, entry_id, salt, ip_address, user_agent)
      VALUES (p_organization_id, new_id, new_salt, p_ip_address, p_user_agent);
    new_ip_address := NULL;
    new_user_agent := NULL;
  END IF;

  IF new_sequence IS NOT NULL THEN
    new_hash := public.billing_audit_entry_hash(
      head_hash, p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id,
      p_resource_type, p_resource_id, p_before_state, p_after_state, new_metadata,
      new_ip_address, new_user_agent, new_time);
  END IF;

  INSERT INTO public.billing_audit_log (
    organization_id, id, sequence, action, actor_type, actor_id, resource_type, resource_id,
    before_state, after_state, metadata, ip_address, user_agent, created_at, hash
  ) VALUES (
    p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id, p_resource_type,
    p_resource_id, p_before_state, p_after_state, new_metadata, new_ip_address, new_user_agent,
    new_time, new_hash
  );

  -- After its entry, without which the head does not grow.
  IF new_sequence IS NOT NULL THEN
    UPDATE public.billing_audit_chain_heads h
       SET last_sequence = new_sequence, last_hash = new_hash
     WHERE h.organization_id = p_organization_id;
  END IF;
  RETURN new_id;
END
$$;

-- As of 20260109010000_audit_chains.sql, and an erasure is entered by what erases.
CREATE OR REPLACE FUNCTION billing_audit_log_refuse_raw() RETURNS trigger
  LANGUAGE plpgsql SECURITY INVOKER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF pg_has_role(current_user, 'billing_owner', 'USAGE') THEN
    RETURN NEW;
  END IF;
  IF NEW.action NOT IN ('audit_chain_repaired', 'organization_erased') AND (
       NEW.hash = public.billing_audit_head_hash(NEW.organization_id, NEW.sequence)
       OR NEW.hash = public.billing_audit_entry_hash(
            public.billing_audit_head_hash(NEW.organization_id, NEW.sequence - 1),
            NEW.organization_id, NEW.id, NEW.sequence, NEW.action, NEW.actor_type, NEW.actor_id,
            NEW.resource_type, NEW.resource_id, NEW.before_state, NEW.after_state, NEW.metadata,
            NEW.ip_address, NEW.user_agent, NEW.created_at)) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'an audit entry follows the last one of its chain: this one is refused'
    USING ERRCODE = 'insufficient_privilege',
          HINT = 'Append entries with log_billing_action(); audit_chain_repaired and organization_erased are the program''s own.';
END
$$;
REVOKE ALL ON FUNCTION billing_audit_log_refuse_raw() FROM PUBLIC;

COMMENT ON COLUMN billing_audit_log.ip_address IS
  'Of test entries, and of those from before billing_audit_personal_data.';
COMMENT ON COLUMN billing_audit_log.user_agent IS
  'Of test entries, and of those from before billing_audit_personal_data.';

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119010000', 'audit_personal_data') ON CONFLICT DO NOTHING;
COMMIT;
