//! SQL for what names of organizations stand for.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Named, own_id};

/// Organizations by both of their names, and whether they are archived. An erased one
/// has neither.
#[derive(Debug, Default)]
pub struct FoundNames {
    pub by_external_id: HashMap<String, (Uuid, bool)>,
    pub by_id: HashMap<Uuid, bool>,
}

impl FoundNames {
    /// What one of the names stands for.
    pub fn named(&self, name: &str) -> Option<Named> {
        let by_id = own_id(name).and_then(|id| Some((id, *self.by_id.get(&id)?)));
        Named::of(self.by_external_id.get(name).copied(), by_id)
    }
}

pub async fn find(
    conn: &mut PgConnection,
    names: &[&str],
    ids: &[Uuid],
) -> Result<FoundNames, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.external_id AS "name?", o.id AS "id!", o.archived_at IS NOT NULL AS "archived!"
             FROM organizations o WHERE o.external_id = ANY($1) AND o.erased_at IS NULL
           UNION ALL
           SELECT NULL, o.id, o.archived_at IS NOT NULL
             FROM organizations o WHERE o.id = ANY($2) AND o.erased_at IS NULL"#,
        names as &[&str],
        ids
    )
    .fetch_all(conn)
    .await?;
    let mut found = FoundNames::default();
    for row in rows {
        match row.name {
            Some(name) => {
                found.by_external_id.insert(name, (row.id, row.archived));
            }
            None => {
                found.by_id.insert(row.id, row.archived);
            }
        }
    }
    Ok(found)
}
