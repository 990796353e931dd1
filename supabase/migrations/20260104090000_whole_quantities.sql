-- A quantity has up to twenty digits, and they may all stand before the point.
-- A wider number needs no other bytes, so no row is written again; and none is
-- read: that there is no negative one, the constraint has held so far.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

DO $$
DECLARE
  narrow text;
BEGIN
  FOREACH narrow IN ARRAY ARRAY['usage_events', 'usage_reservations'] LOOP
    IF EXISTS (SELECT FROM pg_attribute
                WHERE attrelid = to_regclass(narrow) AND attname = 'quantity'
                  AND format_type(atttypid, atttypmod) = 'numeric(20,4)') THEN
      EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I', narrow, narrow || '_quantity_check');
      EXECUTE format('ALTER TABLE %I ALTER COLUMN quantity TYPE numeric(24,4)', narrow);
      EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (quantity >= 0) NOT VALID',
                     narrow, narrow || '_quantity_check');
    END IF;
  END LOOP;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260104090000', 'whole_quantities') ON CONFLICT DO NOTHING;
COMMIT;
