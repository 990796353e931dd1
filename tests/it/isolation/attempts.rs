//! Running a probe as the service's roles would, and seeing what it came to.

use std::collections::BTreeMap;

use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row as _};

use super::world::{SECRET, THEM, US, World};

/// Who probes: a role, for our organization or for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prober {
    pub role: &'static str,
    pub for_us: bool,
}

pub const PROBERS: [Prober; 4] = [
    Prober {
        role: "billing_app",
        for_us: true,
    },
    Prober {
        role: "billing_app",
        for_us: false,
    },
    Prober {
        role: "billing_worker",
        for_us: true,
    },
    // The login by itself.
    Prober {
        role: "billing_service",
        for_us: true,
    },
];

/// What a probe is, and what must not come of it.
#[derive(Debug, Clone)]
pub struct Probe {
    pub sql: String,
    /// It must fail, rather than do nothing.
    pub refused: bool,
}

impl Probe {
    pub fn of(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            refused: false,
        }
    }

    pub fn to_be_refused(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            refused: true,
        }
    }
}

/// A connection of the service's own login, with a leaky function and operator
/// of the attacker's.
pub struct Rig {
    conn: PgConnection,
    their_state: String,
    before: String,
    /// How many attempts each role made, and how many of them ran to their end.
    pub tally: BTreeMap<&'static str, (usize, usize)>,
}

/// Told by who calls them, where a row is seen that should not be.
const LEAKY: &str = "
CREATE FUNCTION pg_temp.leak(value text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
  BEGIN
    IF value LIKE '%{SECRET}%' OR value = '{THEM}' THEN
      RAISE EXCEPTION 'leaked %', value USING ERRCODE = 'LEAKS';
    END IF;
    RETURN true;
  END $$;
CREATE FUNCTION pg_temp.leaks(value text, other text) RETURNS boolean COST 0.0000001 LANGUAGE sql
  AS 'SELECT pg_temp.leak(value)';
CREATE OPERATOR pg_temp.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.leaks,
                             RESTRICT = eqsel, JOIN = eqjoinsel);
GRANT EXECUTE ON FUNCTION pg_temp.leak(text), pg_temp.leaks(text, text) TO PUBLIC";

impl Rig {
    pub async fn new(world: &World) -> Self {
        let mut conn = world.db.service().connect().await.unwrap();
        let leaky = LEAKY.replace("{SECRET}", SECRET);
        let leaky = leaky.replace("{THEM}", &THEM.to_string());
        conn.execute(sqlx::raw_sql(AssertSqlSafe(leaky)))
            .await
            .unwrap();
        let mut rig = Self {
            conn,
            their_state: world.their_state(),
            before: String::new(),
            tally: BTreeMap::new(),
        };
        rig.begin("billing_worker", false).await;
        rig.before = rig.look().await;
        rig.end().await;
        rig
    }

    /// Makes the attempt and undoes it; what is wrong with what came of it.
    pub async fn attempt(&mut self, prober: Prober, probe: &Probe) -> Result<(), String> {
        self.begin(prober.role, prober.for_us).await;
        let verdict = self.judge(prober.role, probe).await;
        self.end().await;
        verdict.map_err(|wrong| format!("{wrong}: {prober:?}: {}", probe.sql))
    }

    async fn judge(&mut self, role: &'static str, probe: &Probe) -> Result<(), String> {
        let answer = self.conn.fetch_all(AssertSqlSafe(probe.sql.clone())).await;
        let (made, ran) = self.tally.entry(role).or_default();
        *made += 1;
        *ran += usize::from(answer.is_ok());
        match answer {
            Err(sqlx::Error::Database(error)) => told_by(error.downcast_ref::<PgDatabaseError>()),
            Err(error) => Err(format!("it broke: {error}")),
            Ok(_) if probe.refused => Err("it is not refused".to_owned()),
            Ok(rows) => {
                for row in &rows {
                    // Probes answer in text, of which some is null.
                    let text: Option<String> = row.try_get(0).map_err(|e| e.to_string())?;
                    tells(text.as_deref().unwrap_or_default(), true)?;
                }
                self.unchanged().await
            }
        }
    }

    /// SQLSTATE, or how many rows: what an oracle would tell by.
    pub async fn outcome(&mut self, prober: Prober, sql: &str) -> String {
        self.begin(prober.role, prober.for_us).await;
        let done = self.conn.execute(AssertSqlSafe(sql.to_owned())).await;
        self.end().await;
        match done {
            Ok(done) => format!("{} rows", done.rows_affected()),
            Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    async fn unchanged(&mut self) -> Result<(), String> {
        self.become_all_seeing().await;
        if self.look().await == self.before {
            Ok(())
        } else {
            Err("the other organization's rows are others".to_owned())
        }
    }

    async fn become_all_seeing(&mut self) {
        let sql = "SET LOCAL row_security = on; SET LOCAL search_path = public;
                   SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = ''";
        self.conn.execute(sqlx::raw_sql(sql)).await.unwrap();
    }

    async fn look(&mut self) -> String {
        let state = AssertSqlSafe(self.their_state.clone());
        let state: Option<String> = sqlx::query_scalar(state)
            .fetch_one(&mut self.conn)
            .await
            .unwrap();
        state.unwrap_or_default()
    }

    async fn begin(&mut self, role: &str, for_us: bool) {
        let context = if for_us {
            format!("SET LOCAL app.current_org_id = '{US}'")
        } else {
            String::new()
        };
        let sql = format!("BEGIN; SET LOCAL ROLE {role}; {context}");
        self.conn
            .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
            .await
            .unwrap();
    }

    async fn end(&mut self) {
        self.conn.execute("ROLLBACK").await.unwrap();
    }
}

fn told_by(error: &PgDatabaseError) -> Result<(), String> {
    let said = [Some(error.message()), error.detail(), error.hint()];
    for text in said.into_iter().flatten() {
        tells(text, false)?;
    }
    match error.code() {
        // Our own leaky function saw something, or the division by zero that
        // only a row of theirs makes.
        "LEAKS" | "22012" => Err(format!(
            "it was evaluated on their row: {}",
            error.message()
        )),
        // Probes are well-formed.
        "42601" | "42703" | "42883" | "42P01" => Err(format!("no probe: {}", error.message())),
        _ => Ok(()),
    }
}

fn tells(text: &str, is_row: bool) -> Result<(), String> {
    if text.contains(SECRET) || (is_row && text.contains(&THEM.to_string())) {
        return Err(format!("it tells {text}"));
    }
    Ok(())
}
