-- E-mail addresses in the canonical composition (NFC), in which they are
-- compared: the same letters are one address, however a keyboard composes them.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

DO $$
BEGIN
  -- Other encodings have no decomposed letters to compose.
  IF current_setting('server_encoding') = 'UTF8' THEN
    -- Where two users have one address in two forms, each keeps its own: a
    -- login finds the form that was typed first.
    UPDATE users u SET email = normalize(u.email, NFC)
     WHERE u.email IS NOT NFC NORMALIZED
       AND NOT EXISTS (SELECT FROM users other
                        WHERE other.id <> u.id
                          AND lower(normalize(other.email, NFC)) = lower(normalize(u.email, NFC)));
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103070000', 'canonical_addresses') ON CONFLICT DO NOTHING;
COMMIT;
