//! The shared keys' SQL.

use sqlx::PgConnection;

use super::Key;

/// The key of this name; `new`, if there was none.
pub async fn find_or_insert(
    conn: &mut PgConnection,
    name: &str,
    new: &Key,
) -> Result<Key, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO service_keys (name, key) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        name,
        &new[..]
    )
    .execute(&mut *conn)
    .await?;
    let key = sqlx::query_scalar!("SELECT key FROM service_keys WHERE name = $1", name)
        .fetch_one(conn)
        .await?;
    Key::try_from(key).map_err(|_| sqlx::Error::Decode("a key has another length".into()))
}
