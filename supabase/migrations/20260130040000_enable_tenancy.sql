-- One form of row-level security for the tables of tenants' data, in one call: migrations that
-- add such a table call enable_tenancy() once the table is there.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- Binds everyone to the organization of a row, and grants what the service needs: billing_worker
-- the rights named ('SELECT, INSERT'), billing_app to read or nothing. Called again, it leaves
-- exactly what it is told.
CREATE OR REPLACE FUNCTION enable_tenancy(
  p_table regclass,
  p_worker_rights text,
  p_app_reads boolean DEFAULT false
) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY INVOKER
  SET search_path TO pg_catalog, pg_temp
AS $$
DECLARE
  v_name text := (SELECT relname FROM pg_class WHERE oid = p_table);
  v_current CONSTANT text := 'organization_id = auth.get_current_org_id()';
  -- Background work is across organizations, and has none set.
  v_unset_or_current CONSTANT text := 'auth.get_current_org_id() IS NULL OR ' || v_current;
BEGIN
  IF p_worker_rights IS NULL
     OR p_worker_rights !~ '^(SELECT|INSERT|UPDATE|DELETE)(, *(SELECT|INSERT|UPDATE|DELETE))*$' THEN
    RAISE EXCEPTION 'enable_tenancy: expected rights of billing_worker such as ''SELECT, INSERT'', got %',
      coalesce(quote_literal(p_worker_rights), 'null');
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute
                  WHERE attrelid = p_table AND attname = 'organization_id'
                    AND atttypid = 'uuid'::regtype AND NOT attisdropped) THEN
    RAISE EXCEPTION 'enable_tenancy: % has no column "organization_id uuid"', p_table;
  END IF;
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_table);
  EXECUTE format('DROP POLICY IF EXISTS %I ON %s', v_name || '_owner', p_table);
  EXECUTE format('CREATE POLICY %I ON %s TO billing_owner USING (true) WITH CHECK (true)',
                 v_name || '_owner', p_table);
  EXECUTE format('DROP POLICY IF EXISTS %I ON %s', v_name || '_worker', p_table);
  EXECUTE format('CREATE POLICY %I ON %s TO billing_worker USING (%s) WITH CHECK (%s)',
                 v_name || '_worker', p_table, v_unset_or_current, v_unset_or_current);
  EXECUTE format('DROP POLICY IF EXISTS %I ON %s', v_name || '_select', p_table);
  EXECUTE format('REVOKE ALL ON %s FROM billing_worker, billing_app', p_table);
  EXECUTE format('GRANT %s ON %s TO billing_worker', p_worker_rights, p_table);
  IF p_app_reads THEN
    EXECUTE format('CREATE POLICY %I ON %s FOR SELECT TO billing_app USING (%s)',
                   v_name || '_select', p_table, v_current);
    EXECUTE format('GRANT SELECT ON %s TO billing_app', p_table);
  END IF;
END $$;
-- It is for migrations, which are the owner.
REVOKE ALL ON FUNCTION enable_tenancy(regclass, text, boolean) FROM PUBLIC;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260130040000', 'enable_tenancy') ON CONFLICT DO NOTHING;
COMMIT;
