-- Large objects belong to no organization: row-level security does not reach
-- them, and nothing here uses them. Who migrates takes away what lets everyone
-- make them, as far as the server lets him: where he is no superuser, it stays
-- as it is, and `doctor` says so. A product in the same database that uses them
-- is to be granted EXECUTE again by name.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;

DO $$
DECLARE
  called regprocedure;
BEGIN
  FOR called IN
    SELECT oid FROM pg_proc
     WHERE pronamespace = 'pg_catalog'::regnamespace
       AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export', 'lo_open', 'lo_put',
                       'lo_get', 'lo_truncate', 'lo_truncate64', 'lo_unlink', 'loread', 'lowrite')
       AND pg_has_role(current_user, proowner, 'USAGE')
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, billing_app, billing_worker', called);
  END LOOP;
END
$$;

SET LOCAL ROLE billing_owner;
INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260109020000', 'no_large_objects') ON CONFLICT DO NOTHING;
COMMIT;
