//! The schema as the migrations leave it keeps the rules of its catalog, and
//! the rules notice who breaks them.

use sqlx::{AssertSqlSafe, Executor};

use super::rules::violations;
use crate::support::TestDatabase;

#[tokio::test]
async fn the_schema_keeps_every_rule() {
    let db = TestDatabase::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(violations(&mut conn).await, [""; 0]);
}

/// What somebody may add some day, and what the rules say to it.
const BREACHES: &[(&str, &str)] = &[
    (
        "CREATE TABLE coupons (organization_id uuid, code text, PRIMARY KEY (organization_id, code))",
        "row-level security is enabled: coupons",
    ),
    (
        "CREATE TABLE coupons (organization_id uuid, code text, PRIMARY KEY (organization_id, code));
         ALTER TABLE coupons ENABLE ROW LEVEL SECURITY",
        "row-level security is forced: coupons",
    ),
    (
        "CREATE TABLE coupons (organization_id uuid, code text, PRIMARY KEY (organization_id, code))",
        "each privilege has its policy: coupons: SELECT by postgres",
    ),
    (
        "CREATE TABLE coupons (organization_id uuid NOT NULL, code text PRIMARY KEY)",
        "the organization is in every key: coupons: coupons_pkey",
    ),
    (
        "CREATE UNIQUE INDEX one_number ON billing_invoices (number)",
        "the organization is in every key: billing_invoices: one_number",
    ),
    (
        "CREATE TABLE coupons (organization_id uuid NOT NULL)",
        "every table has a primary key: coupons",
    ),
    (
        "CREATE TABLE coupons (code text PRIMARY KEY)",
        "every table says whose its rows are: coupons",
    ),
    (
        "ALTER TABLE usage_quotas ADD COLUMN id bigserial",
        "nothing counts up: usage_quotas_id_seq",
    ),
    (
        "ALTER TABLE usage_quotas ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY",
        "nothing counts up: usage_quotas.id",
    ),
    (
        "ALTER TABLE usage_quotas ADD COLUMN plan_id integer",
        "ids are uuid, bigint or text: usage_quotas.plan_id is integer",
    ),
    (
        "ALTER TABLE usage_quotas ADD COLUMN changed_by uuid REFERENCES users",
        "no row refers to another organization's: usage_quotas: usage_quotas_changed_by_fkey",
    ),
    (
        "ALTER TABLE usage_quotas ADD CONSTRAINT theirs FOREIGN KEY (organization_id)
           REFERENCES organizations ON DELETE SET NULL",
        "no reference empties a column when its target goes: usage_quotas: theirs",
    ),
    (
        "ALTER POLICY usage_quotas_select ON usage_quotas USING (true)",
        "policies compare the organization only: usage_quotas: usage_quotas_select says true",
    ),
    (
        "CREATE POLICY everyone ON usage_quotas USING (true)",
        "policies compare the organization only: usage_quotas: everyone says true",
    ),
    (
        "ALTER POLICY usage_quotas_worker ON usage_quotas
           USING (organization_id IN (SELECT id FROM organizations))",
        "policies compare the organization only: usage_quotas: usage_quotas_worker says (organization_id IN",
    ),
    (
        "CREATE POLICY careless ON usage_quotas FOR INSERT TO billing_worker",
        "policies say what may be written: usage_quotas: careless",
    ),
    (
        "ALTER TABLE usage_quotas OWNER TO postgres",
        "billing_owner owns everything: usage_quotas",
    ),
    (
        "ALTER FUNCTION auth.get_current_org_id() SECURITY DEFINER",
        "functions run as their caller: auth.get_current_org_id()",
    ),
    (
        "ALTER FUNCTION auth.get_current_org_id() SET search_path = public",
        "functions have a search_path of their own: auth.get_current_org_id()",
    ),
    (
        "GRANT EXECUTE ON FUNCTION auth.get_current_org_id() TO PUBLIC",
        "nobody has privileges but the three roles: auth.get_current_org_id(): EXECUTE to PUBLIC",
    ),
    (
        "GRANT SELECT ON usage_quotas TO billing_service",
        "nobody has privileges but the three roles: usage_quotas: SELECT to billing_service",
    ),
    (
        "CREATE VIEW everything AS SELECT * FROM usage_quotas",
        "views run as their caller: everything",
    ),
    (
        "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO billing_alerts SELECT NEW.*; RETURN NEW; END';
         CREATE TRIGGER copy BEFORE INSERT ON usage_quotas FOR EACH ROW EXECUTE FUNCTION copy()",
        "triggers only refuse: usage_quotas: copy",
    ),
    (
        "ALTER TABLE billing_audit_log DISABLE TRIGGER billing_audit_log_append_only",
        "the audit log only grows: billing_audit_log: UPDATE",
    ),
    (
        "GRANT UPDATE (quota) ON usage_quotas TO billing_app",
        "billing_app writes only its audit entries: usage_quotas.quota: UPDATE",
    ),
    (
        "GRANT DELETE ON billing_audit_log TO billing_worker",
        "billing_worker changes no audit entry, and empties nothing: billing_audit_log: DELETE",
    ),
    (
        "GRANT TRUNCATE ON usage_quotas TO billing_worker",
        "billing_worker changes no audit entry, and empties nothing: usage_quotas: TRUNCATE",
    ),
    (
        "GRANT CREATE ON SCHEMA public TO billing_app",
        "the roles that serve make nothing: schema public: CREATE to billing_app",
    ),
    (
        "CREATE RULE vanish AS ON DELETE TO usage_quotas DO INSTEAD NOTHING",
        "nothing rewrites statements: usage_quotas: vanish",
    ),
    (
        "ALTER ROLE billing_worker BYPASSRLS",
        "the roles are bound and cannot log in: billing_worker",
    ),
    (
        "ALTER ROLE billing_app LOGIN",
        "the roles are bound and cannot log in: billing_app",
    ),
    (
        "GRANT billing_worker TO billing_app",
        "the roles are nobody else: billing_app is a member of billing_worker",
    ),
];

#[tokio::test]
async fn every_rule_notices_who_breaks_it() {
    let db = TestDatabase::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    for (breach, said) in BREACHES {
        tx.execute("SAVEPOINT whole").await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(*breach)))
            .await
            .unwrap_or_else(|e| panic!("{breach}: {e}"));
        let found = violations(&mut tx).await;
        assert!(
            found.iter().any(|violation| violation.starts_with(said)),
            "{breach}\nshould be: {said}\nis: {found:#?}"
        );
        tx.execute("ROLLBACK TO whole").await.unwrap();
    }
}
