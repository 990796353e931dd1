-- Undoes 20260119010000_audit_personal_data.sql: log_billing_action() is that of
-- 20260109010000_audit_chains.sql again. The table stays, since entries have digests
-- of its rows, until 20260101091000_billing_audit_log.sql is undone as well.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

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

  IF new_sequence IS NOT NULL THEN
    new_hash := public.billing_audit_entry_hash(
      head_hash, p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id,
      p_resource_type, p_resource_id, p_before_state, p_after_state, p_metadata, p_ip_address,
      p_user_agent, new_time);
  END IF;

  INSERT INTO public.billing_audit_log (
    organization_id, id, sequence, action, actor_type, actor_id, resource_type, resource_id,
    before_state, after_state, metadata, ip_address, user_agent, created_at, hash
  ) VALUES (
    p_organization_id, new_id, new_sequence, p_action, p_actor_type, p_actor_id, p_resource_type,
    p_resource_id, p_before_state, p_after_state, p_metadata, p_ip_address, p_user_agent,
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

CREATE OR REPLACE FUNCTION billing_audit_log_refuse_raw() RETURNS trigger
  LANGUAGE plpgsql SECURITY INVOKER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF pg_has_role(current_user, 'billing_owner', 'USAGE') THEN
    RETURN NEW;
  END IF;
  IF NEW.action <> 'audit_chain_repaired' AND (
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
          HINT = 'Append entries with log_billing_action().';
END
$$;
DO $undo$
BEGIN
  IF to_regclass('billing_audit_log') IS NOT NULL THEN
    EXECUTE 'COMMENT ON COLUMN billing_audit_log.ip_address IS NULL';
    EXECUTE 'COMMENT ON COLUMN billing_audit_log.user_agent IS NULL';
  END IF;
END
$undo$;
DROP FUNCTION IF EXISTS billing_audit_personal_digest(bytea, inet, text, text);

DELETE FROM billing_schema_migrations WHERE version = '20260119010000';
COMMIT;
