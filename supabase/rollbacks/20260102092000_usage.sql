-- Undoes 20260102092000_usage.sql: what was counted goes with it.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS usage_reports;
DROP TABLE IF EXISTS usage_alerts;
DROP TABLE IF EXISTS usage_reservations;
DROP TABLE IF EXISTS usage_totals;
DROP TABLE IF EXISTS usage_events;
DROP TABLE IF EXISTS usage_quota_overrides;

DELETE FROM billing_schema_migrations WHERE version = '20260102092000';
COMMIT;
