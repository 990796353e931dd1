//! One cluster for all tests, and a fresh database for each: a clone of a
//! template that was migrated once.

use std::path::{Path, PathBuf};

use embedded_postgres::EmbeddedPostgres;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::OnceCell;
use uuid::Uuid;
use valuecanvas_billing::app::EMBEDDED;
use valuecanvas_billing::migrations;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster that this process uses. It is never dropped: the server outlives
/// the process, for the next test's.
struct Cluster {
    embedded: EmbeddedPostgres,
    template: String,
    /// How databases are cloned.
    strategy: &'static str,
}

impl Cluster {
    async fn get() -> &'static Self {
        CLUSTER.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let embedded = EmbeddedPostgres::start(EMBEDDED, &data_dir())
            .await
            .expect("PostgreSQL starts");
        // In memory, files are copied faster than pages are logged, and with them the cache that
        // sessions begin with. Copying waits for the disk twice, where there is one.
        let in_memory = data_dir()
            .canonicalize()
            .is_ok_and(|place| place.starts_with("/dev/shm"));
        let cluster = Self {
            embedded,
            template: template_name(),
            strategy: if in_memory { "STRATEGY FILE_COPY" } else { "" },
        };
        cluster.make_template().await;
        cluster
    }

    fn options(&self, user: &str, database: &str) -> PgConnectOptions {
        let url = self.embedded.url_for(user, database);
        url.parse::<PgConnectOptions>()
            .expect("the URL is well formed")
            .ssl_mode(PgSslMode::Disable)
    }

    async fn admin(&self) -> PgConnection {
        PgConnection::connect_with(&self.options("postgres", "postgres"))
            .await
            .expect("the cluster answers")
    }

    /// Made by the first test process that needs it.
    async fn make_template(&self) {
        let mut admin = self.admin().await;
        admin
            .execute("SELECT pg_advisory_lock(20260101)")
            .await
            .unwrap();
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(&self.template)
                .fetch_one(&mut admin)
                .await
                .unwrap();
        if !exists {
            // Migrated under another name: a template that is there is whole.
            let making = format!("{}_making", self.template);
            run(
                &mut admin,
                format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)"),
            )
            .await;
            run(&mut admin, format!("CREATE DATABASE {making}")).await;
            let mut conn = self.options("postgres", &making).connect().await.unwrap();
            migrations::up(&mut conn, |_| {})
                .await
                .expect("the migrations apply");
            conn.execute(
                "DO $$ BEGIN
                   IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'billing_service') THEN
                     CREATE ROLE billing_service LOGIN NOINHERIT;
                   END IF;
                   GRANT billing_app, billing_worker TO billing_service;
                 END $$",
            )
            .await
            .unwrap();
            conn.close().await.unwrap();
            // The first session after the migrations leaves that cache.
            let first = self.options("postgres", &making).connect().await.unwrap();
            first.close().await.unwrap();
            run(
                &mut admin,
                format!("ALTER DATABASE {making} RENAME TO {}", self.template),
            )
            .await;
        }
        admin.close().await.unwrap();
    }
}

fn data_dir() -> PathBuf {
    // Beside the build's own directory for tests, which is below target/.
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-postgres")
}

/// A template is of one set of migrations.
fn template_name() -> String {
    let mut hasher = Sha256::new();
    for path in migration_files() {
        hasher.update(std::fs::read(path).unwrap());
    }
    format!("template_{}", &hex::encode(hasher.finalize())[..16])
}

/// The files of supabase/migrations, in order.
pub fn migration_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("supabase/migrations");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

async fn run(conn: &mut PgConnection, sql: String) {
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// A database of one test's own, dropped with it.
pub struct TestDatabase {
    pub name: String,
    cluster: &'static Cluster,
    /// As the superuser: for looking, and for breaking things.
    pub pool: PgPool,
}

impl TestDatabase {
    /// A database with all migrations applied.
    pub async fn new() -> Self {
        let cluster = Cluster::get().await;
        let how = format!("TEMPLATE {} {}", cluster.template, cluster.strategy);
        Self::create(cluster, &how).await
    }

    /// A database with nothing in it.
    pub async fn empty() -> Self {
        Self::create(Cluster::get().await, "").await
    }

    async fn create(cluster: &'static Cluster, how: &str) -> Self {
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut admin = cluster.admin().await;
        run(&mut admin, format!("CREATE DATABASE {name} {how}")).await;
        admin.close().await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(cluster.options("postgres", &name));
        Self {
            name,
            cluster,
            pool,
        }
    }

    /// Connects as `user`.
    pub fn options(&self, user: &str) -> PgConnectOptions {
        self.cluster.options(user, &self.name)
    }

    /// As `serve` connects.
    pub fn service(&self) -> PgConnectOptions {
        self.options("billing_service")
    }

    pub fn service_pool(&self) -> PgPool {
        valuecanvas_billing::db::pool(self.service(), 4)
    }

    /// For programs: the URL of `user`.
    pub fn url(&self, user: &str) -> String {
        self.cluster.embedded.url_for(user, &self.name)
    }

    /// Where the cluster's socket is.
    pub fn socket_directory(&self) -> &Path {
        self.cluster.embedded.endpoint().socket_directory()
    }

    pub async fn execute(&self, sql: &str) {
        self.pool
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// The one value of a query, as text; empty where it is null.
    pub async fn value(&self, sql: &str) -> String {
        let sql = format!("SELECT coalesce(({sql})::text, '')");
        sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    pub async fn count(&self, table_and_condition: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {table_and_condition}"))
            .await
            .parse()
            .unwrap()
    }

    /// An organization with a billing customer.
    pub async fn organization(&self, customer: &str) -> Uuid {
        let catalogue = valuecanvas_billing::catalogue::Catalogue::load(None).unwrap();
        let new = valuecanvas_billing::tenancy::organizations::NewOrganization {
            name: format!("Organization of {customer}"),
            plan_tier: "free".to_owned(),
            stripe_customer_id: Some(customer.to_owned()),
        };
        let pool = self.service_pool();
        valuecanvas_billing::tenancy::organizations::create(&pool, &catalogue, new)
            .await
            .unwrap()
            .id
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (options, name) = (
            self.cluster.options("postgres", "postgres"),
            self.name.clone(),
        );
        // A drop cannot wait on the test's own runtime.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                if let Ok(mut admin) = options.connect().await {
                    let _ = admin
                        .execute(AssertSqlSafe(format!(
                            "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
                        )))
                        .await;
                }
            });
        });
        let _ = dropping.join();
    }
}
