-- The roles, the current organization, and the ledger of migrations.
--
-- Every file of this directory may be run again, by `migrate up`, by
-- `psql -f` or by `supabase db push`: each statement either makes what is
-- missing or replaces what is there, and the last one enters the file in the
-- ledger. Each is one transaction, so that a file that failed is not entered
-- even where psql goes on after an error. It waits for a lock no longer than
-- a delivery of Stripe's, queued behind it, waits for its answer.
--
-- A superuser may run them, and so may the owner of the database with
-- CREATEROLE, which is what the administrator of a hosted PostgreSQL is.
-- Where the three roles exist already, membership in billing_owner does
-- instead of CREATEROLE.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';

-- Roles belong to the whole cluster: another database, or another run at the
-- same moment, may have made them already.
DO $$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['billing_owner', 'billing_app', 'billing_worker'] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
      END;
    END IF;
  END LOOP;
  -- Whoever migrates acts as the owner. A superuser needs no membership. From
  -- PostgreSQL 16 on, whoever makes a role may grant it, not yet become it.
  IF NOT pg_has_role(current_user, 'billing_owner',
                     CASE WHEN current_setting('server_version_num')::integer >= 160000
                          THEN 'SET' ELSE 'MEMBER' END) THEN
    EXECUTE format('GRANT billing_owner TO %I', current_user);
  END IF;
  EXECUTE format('GRANT CREATE ON DATABASE %I TO billing_owner', current_database());
  GRANT CREATE, USAGE ON SCHEMA public TO billing_owner;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auth') THEN
    CREATE SCHEMA auth AUTHORIZATION billing_owner;
  END IF;
  GRANT CREATE, USAGE ON SCHEMA auth TO billing_owner;
  GRANT USAGE ON SCHEMA public, auth TO billing_app, billing_worker;
END
$$;

SET LOCAL ROLE billing_owner;

-- The organization of the current request; null where there is none, and then
-- no tenant's row is visible to billing_app. An unreadable setting is an error
-- rather than nothing: it would mean that somebody's context was lost.
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
COMMENT ON FUNCTION auth.get_current_org_id() IS
  'The organization of the current request: app.current_org_id, else the JWT claim org_id or organization_id, else null.';
REVOKE ALL ON FUNCTION auth.get_current_org_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.get_current_org_id() TO billing_app, billing_worker;

CREATE TABLE IF NOT EXISTS billing_schema_migrations (
  version text PRIMARY KEY CHECK (version ~ '^[0-9]{14}$'),
  name text NOT NULL,
  -- SHA-256 of the file, written by `migrate up`; psql cannot know it.
  checksum text,
  applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE billing_schema_migrations IS 'Each migration enters itself here, whoever applied it.';
GRANT SELECT ON billing_schema_migrations TO billing_app, billing_worker;

-- Operators look for the state of migrations under the name that Prisma uses.
-- A database that Prisma manages keeps its own table.
DO $$
BEGIN
  IF to_regclass('public._prisma_migrations') IS NULL THEN
    CREATE VIEW public._prisma_migrations WITH (security_invoker = true) AS
      SELECT version AS id,
             checksum,
             applied_at AS finished_at,
             version || '_' || name AS migration_name,
             NULL::text AS logs,
             NULL::timestamptz AS rolled_back_at,
             applied_at AS started_at,
             1 AS applied_steps_count
        FROM public.billing_schema_migrations;
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101090000', 'billing_roles') ON CONFLICT DO NOTHING;
COMMIT;
