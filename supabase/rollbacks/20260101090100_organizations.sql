-- Undoes 20260101090100_organizations.sql. The rows of these tables are lost: back them up first.

SET lock_timeout TO '5s';
SET client_min_messages TO warning;
SET ROLE billing_owner;

DROP TABLE IF EXISTS usage_quotas;
DROP TABLE IF EXISTS users;
DROP TABLE IF EXISTS organizations;

DELETE FROM billing_schema_migrations WHERE version = '20260101090100';
RESET ROLE;
