//! Logins of one test's own. Roles belong to the whole cluster, so each has a
//! name of its own and goes with its test.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use uuid::Uuid;

use crate::support::TestDatabase;

pub struct Login {
    pub name: String,
    admin: PgConnectOptions,
}

impl Login {
    /// A login with `attributes`, such as CREATEROLE.
    pub async fn new(db: &TestDatabase, attributes: &str) -> Self {
        let name = format!("login_{}", Uuid::now_v7().simple());
        db.execute(&format!("CREATE ROLE {name} LOGIN {attributes}"))
            .await;
        Self {
            name,
            admin: db.options("postgres"),
        }
    }

    /// The administrator that a hosted PostgreSQL gives: no superuser, but the
    /// database is its own, and it may make roles.
    pub async fn hosted_administrator(db: &TestDatabase) -> Self {
        let login = Self::new(db, "CREATEROLE").await;
        db.execute(&format!(
            "ALTER DATABASE {} OWNER TO {}",
            db.name, login.name
        ))
        .await;
        login
    }

    /// Takes back what the login has, and drops it.
    async fn forget(options: PgConnectOptions, name: String) -> Result<(), sqlx::Error> {
        let mut admin = options.connect().await?;
        for statement in [
            "REASSIGN OWNED BY @ TO postgres",
            "DROP OWNED BY @",
            "DROP ROLE @",
        ] {
            let statement = statement.replace('@', &name);
            admin.execute(AssertSqlSafe(statement)).await?;
        }
        admin.close().await
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let forgetting = Self::forget(self.admin.clone(), self.name.clone());
        // A drop cannot wait on the test's own runtime.
        let done = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(forgetting)
        });
        let forgotten = done.join();
        // A failed test has said what matters already.
        if !std::thread::panicking() {
            forgotten.unwrap().expect("the login can be dropped");
        }
    }
}
