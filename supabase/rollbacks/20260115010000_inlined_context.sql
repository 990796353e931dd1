-- Undoes 20260115010000_inlined_context.sql: the function is that of
-- 20260101090000_billing_roles.sql again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE OR REPLACE FUNCTION auth.get_current_org_id() RETURNS uuid
  LANGUAGE plpgsql STABLE SECURITY INVOKER PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  setting text := nullif(current_setting('app.current_org_id', true), '');
  claims jsonb;
BEGIN
  IF setting IS NULL THEN
    claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    setting := coalesce(claims ->> 'org_id', claims ->> 'organization_id');
  END IF;
  RETURN setting::uuid;
END
$$;

DELETE FROM billing_schema_migrations WHERE version = '20260115010000';
COMMIT;
