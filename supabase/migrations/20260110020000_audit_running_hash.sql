-- The hashes of many entries of a chain in one pass: a window's aggregate, whose
-- state is the hash of the entry before. A recursion reads all entries again
-- for each of them.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- The first entry follows p_previous_hash, each other the state.
CREATE OR REPLACE FUNCTION billing_audit_next_entry_hash(
  state bytea,
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
BEGIN
  RETURN public.billing_audit_entry_hash(
    coalesce(state, p_previous_hash), p_organization_id, p_id, p_sequence, p_action, p_actor_type,
    p_actor_id, p_resource_type, p_resource_id, p_before_state, p_after_state, p_metadata,
    p_ip_address, p_user_agent, p_created_at);
END
$$;

CREATE OR REPLACE AGGREGATE billing_audit_running_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz) (
  SFUNC = billing_audit_next_entry_hash,
  STYPE = bytea
);

REVOKE ALL ON FUNCTION billing_audit_next_entry_hash(
  bytea, bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION billing_audit_running_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing_audit_next_entry_hash(
  bytea, bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz) TO billing_app, billing_worker;
GRANT EXECUTE ON FUNCTION billing_audit_running_entry_hash(
  bytea, uuid, uuid, bigint, text, text, uuid, text, text, jsonb, jsonb, jsonb, inet, text,
  timestamptz) TO billing_app, billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260110020000', 'audit_running_hash') ON CONFLICT DO NOTHING;
COMMIT;
