-- Undoes 20260109020000_no_large_objects.sql: everyone may make large objects
-- again.

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
       -- lo_import and lo_export of a file were never everyone's.
       AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_open', 'lo_put', 'lo_get', 'lo_truncate',
                       'lo_truncate64', 'lo_unlink', 'loread', 'lowrite')
       AND pg_has_role(current_user, proowner, 'USAGE')
  LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', called);
  END LOOP;
END
$$;

SET LOCAL ROLE billing_owner;
DELETE FROM billing_schema_migrations WHERE version = '20260109020000';
COMMIT;
