//! The SQL that all tables of mirrored objects share: rows are found by
//! organization and id, summarized for audit entries, and written whole.

/// Defines `load` and `save` for a table of one kind of object.
///
/// - `columns`: the columns besides organization, id and version, which every
///   such table has
/// - `shown`: the columns of the summary, and the summary
macro_rules! mirrored {
    (
        $object:ty, in $table:literal by $id:ident, $id_name:literal;
        columns: [$($column:literal),+ $(,)?];
        shown: $shown:literal, |$row:ident| $summary:expr
    ) => {
        pub async fn load(
            conn: &mut sqlx::PgConnection,
            keys: &[$crate::projection::versions::merge::ObjectKey],
        ) -> Result<$crate::projection::versions::merge::StoredRows, sqlx::Error> {
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
                let stored = $crate::projection::versions::merge::Stored { summary, version };
                (($row.organization_id, $row.$id), stored)
            });
            Ok(stored.collect())
        }

        pub async fn save(
            conn: &mut sqlx::PgConnection,
            changed: &[$crate::projection::versions::merge::MergedObject<$object>],
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
