//! What the tables of mirrored objects have in common: rows are found by
//! organization and id, say in audit entries what they show, and are written
//! whole.

/// `load` and `save` of a table whose rows are objects of one kind.
///
/// - `columns`: beside the organization, the id, and the place in the order of
///   events, which every such table has
/// - `shown`: what of a row an audit entry is made of, and how
macro_rules! mirrored {
    (
        $object:ty, in $table:literal by $id:ident, $id_name:literal;
        columns: [$($column:literal),+ $(,)?];
        shown: $shown:literal, |$row:ident| $summary:expr
    ) => {
        pub async fn load(
            conn: &mut sqlx::PgConnection,
            keys: &[$crate::projection::versions::apply::Key],
        ) -> Result<$crate::projection::versions::apply::StoredRows, sqlx::Error> {
            let (organizations, ids) = super::unzip(keys);
            let rows = sqlx::query!(
                "SELECT organization_id, " + $id_name + ", " + $shown + ",
                        last_event_at, last_event_rank, last_event_id, tied_event_ids
                   FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
                   JOIN " + $table + " row
                     ON row.organization_id = wanted.organization AND row." + $id_name + " = wanted.id",
                &organizations,
                &ids as &[&str]
            )
            .fetch_all(conn)
            .await?;
            let stored = rows.into_iter().map(|$row| {
                let summary = $summary;
                let version = super::version(
                    $row.last_event_at,
                    $row.last_event_rank,
                    $row.last_event_id,
                    $row.tied_event_ids,
                );
                let stored = $crate::projection::versions::apply::Stored { summary, version };
                (($row.organization_id, $row.$id), stored)
            });
            Ok(stored.collect())
        }

        pub async fn save(
            conn: &mut sqlx::PgConnection,
            changed: &[$crate::projection::versions::apply::Folded<$object>],
        ) -> Result<(), sqlx::Error> {
            if changed.is_empty() {
                return Ok(());
            }
            let rows: Vec<_> = changed.iter().map(|one| one.row()).collect();
            sqlx::query!(
                "INSERT INTO " + $table + " (organization_id, " + $id_name + $(", " + $column +)+ ",
                   last_event_at, last_event_rank, last_event_id, tied_event_ids)
                 SELECT organization_id, " + $id_name + $(", " + $column +)+ ",
                   last_event_at, last_event_rank, last_event_id, tied_event_ids
                   FROM json_populate_recordset(NULL::" + $table + ", $1::text::json)
                 ON CONFLICT (organization_id, " + $id_name + ") DO UPDATE SET "
                 + $($column + " = excluded." + $column + ", " +)+
                 "last_event_at = excluded.last_event_at,
                   last_event_rank = excluded.last_event_rank,
                   last_event_id = excluded.last_event_id,
                   tied_event_ids = excluded.tied_event_ids, updated_at = excluded.updated_at",
                super::document(&rows)?
            )
            .execute(conn)
            .await?;
            Ok(())
        }
    };
}
pub(super) use mirrored;
