//! SQL for shared signing keys.

use sqlx::PgConnection;

use super::SigningKey;

/// Returns the key of this name, storing `new` if there was none.
pub async fn find_or_insert(
    conn: &mut PgConnection,
    name: &str,
    new: &SigningKey,
) -> Result<SigningKey, sqlx::Error> {
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
    SigningKey::try_from(key)
        .map_err(|_| sqlx::Error::Decode("a signing key does not have 32 bytes".into()))
}
