-- Undoes 20260101090000_billing_roles.sql. The roles stay: other databases of the
-- cluster may use them.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_views
              WHERE schemaname = 'public' AND viewname = '_prisma_migrations'
                AND viewowner = 'billing_owner') THEN
    DROP VIEW public._prisma_migrations;
  END IF;
END
$$;
DROP TABLE IF EXISTS billing_schema_migrations;
DROP FUNCTION IF EXISTS auth.get_current_org_id();
DO $$
BEGIN
  -- Supabase has an auth schema of its own, which is not ours to drop.
  IF EXISTS (SELECT FROM pg_catalog.pg_namespace
              WHERE nspname = 'auth' AND nspowner = 'billing_owner'::regrole)
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = 'auth'::regnamespace)
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = 'auth'::regnamespace) THEN
    DROP SCHEMA auth;
  END IF;
END
$$;
COMMIT;
