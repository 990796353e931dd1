-- Undoes 20260101092000_grace_periods.sql. The rows of these tables are lost: back them up first.

SET lock_timeout TO '5s';
SET client_min_messages TO warning;
SET ROLE billing_owner;

DROP TABLE IF EXISTS grace_periods;

DELETE FROM billing_schema_migrations WHERE version = '20260101092000';
RESET ROLE;
