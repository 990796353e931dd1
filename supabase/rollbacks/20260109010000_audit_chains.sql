-- Undoes 20260109010000_audit_chains.sql: functions and triggers are those of
-- 20260101091000_billing_audit_log.sql again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $undo$
BEGIN
  IF to_regclass('billing_audit_log') IS NOT NULL THEN
    EXECUTE 'DROP TRIGGER IF EXISTS billing_audit_log_no_raw_entry ON billing_audit_log';
  END IF;
  IF to_regclass('billing_audit_chain_heads') IS NOT NULL THEN
    EXECUTE 'DROP TRIGGER IF EXISTS billing_audit_chain_heads_no_leap ON billing_audit_chain_heads';
  END IF;
END
$undo$;
DROP FUNCTION IF EXISTS billing_audit_log_refuse_raw();
DROP FUNCTION IF EXISTS billing_audit_chain_heads_refuse_leap();

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

DROP FUNCTION IF EXISTS billing_audit_has_entry(uuid, bigint, bytea);
DROP FUNCTION IF EXISTS billing_audit_head_hash(uuid, bigint);

DELETE FROM billing_schema_migrations WHERE version = '20260109010000';
COMMIT;
