//! SQL for operators' second factors. It runs as billing_worker outside of any organization.

use jiff::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Hash;

/// An operator's second factor.
pub struct FactorRow {
    pub secret: Vec<u8>,
    /// The step of the last code that was used.
    pub last_step: i64,
}

/// The factor of a user, locked: two codes at once are one after the other.
pub async fn lock(
    conn: &mut PgConnection,
    user_id: Uuid,
) -> Result<Option<FactorRow>, sqlx::Error> {
    sqlx::query_as!(
        FactorRow,
        "SELECT secret, last_step FROM operator_second_factors WHERE user_id = $1 FOR UPDATE",
        user_id
    )
    .fetch_optional(conn)
    .await
}

pub async fn use_step(
    conn: &mut PgConnection,
    user_id: Uuid,
    step: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE operator_second_factors SET last_step = $2 WHERE user_id = $1",
        user_id,
        step
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Uses a recovery code up; false if there is none, or it was used.
pub async fn use_recovery_code(
    conn: &mut PgConnection,
    user_id: Uuid,
    code: &Hash,
) -> Result<bool, sqlx::Error> {
    let used = sqlx::query_scalar!(
        "UPDATE operator_recovery_codes SET used_at = now()
          WHERE user_id = $1 AND code_hash = $2 AND used_at IS NULL RETURNING user_id",
        user_id,
        code
    )
    .fetch_optional(conn)
    .await?;
    Ok(used.is_some())
}

/// Inserts a factor; false if the user has one.
pub async fn insert(
    conn: &mut PgConnection,
    user_id: Uuid,
    secret: &[u8],
    step: i64,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO operator_second_factors (user_id, secret, last_step) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING RETURNING user_id",
        user_id,
        secret,
        step
    )
    .fetch_optional(conn)
    .await?;
    Ok(inserted.is_some())
}

/// Puts new recovery codes in the place of those that there are.
pub async fn replace_recovery_codes(
    conn: &mut PgConnection,
    user_id: Uuid,
    codes: &[Hash],
) -> Result<(), sqlx::Error> {
    let codes: Vec<&[u8]> = codes.iter().map(|hash| hash.as_slice()).collect();
    sqlx::query!(
        "DELETE FROM operator_recovery_codes WHERE user_id = $1",
        user_id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO operator_recovery_codes (user_id, code_hash)
         SELECT $1, unnest($2::bytea[])",
        user_id,
        &codes as &[&[u8]]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes a user's factor and recovery codes; false if there is none.
pub async fn delete(conn: &mut PgConnection, user_id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query!(
        "DELETE FROM operator_recovery_codes WHERE user_id = $1",
        user_id
    )
    .execute(&mut *conn)
    .await?;
    let deleted = sqlx::query!(
        "DELETE FROM operator_second_factors WHERE user_id = $1",
        user_id
    )
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected() > 0)
}

/// Since when a user has a factor, and how many recovery codes are left.
pub async fn state(
    conn: &mut PgConnection,
    user_id: Uuid,
) -> Result<Option<(Timestamp, i64)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT f.created_at,
                  (SELECT count(*) FROM operator_recovery_codes c
                    WHERE c.user_id = f.user_id AND c.used_at IS NULL) AS "left!"
             FROM operator_second_factors f WHERE f.user_id = $1"#,
        user_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.created_at.to_jiff(), row.left)))
}
