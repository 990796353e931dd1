//! SQL for operators of the identity provider. It runs as billing_worker outside of any
//! organization.

use sqlx::PgConnection;
use uuid::Uuid;

use super::operator;
use crate::tenancy::auth::Role;

/// Somebody who signed in before.
pub struct Known {
    pub role: Option<Role>,
    pub disabled: bool,
}

/// The user, locked.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Known>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT operator, operator_reads, disabled_at IS NOT NULL AS "disabled!"
             FROM users WHERE id = $1 FOR UPDATE"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Known {
        role: operator(row.operator, row.operator_reads),
        disabled: row.disabled,
    }))
}

/// The address under which the user is kept: theirs, unless it is another user's, whom the
/// provider knows nothing of.
pub async fn free_address(
    conn: &mut PgConnection,
    id: Uuid,
    email: Option<&str>,
) -> Result<String, sqlx::Error> {
    let own = format!("{id}@oidc.invalid");
    let Some(email) = email else { return Ok(own) };
    let email = crate::tenancy::auth::users::normalized(email);
    let forms = crate::tenancy::auth::users::forms(&email);
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE lower(email) = ANY($1)) AS "taken!""#,
        &forms
    )
    .fetch_one(conn)
    .await?;
    Ok(if taken { own } else { email })
}

pub async fn insert(
    conn: &mut PgConnection,
    id: Uuid,
    email: &str,
    role: Role,
    (issuer, subject): (&str, &str),
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO users (id, email, operator, operator_reads, oidc_issuer, oidc_subject)
         VALUES ($1, $2, $3, $4, $5, $6)",
        id,
        email,
        role == Role::Operator,
        role == Role::OperatorRead,
        issuer,
        subject
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn set_role(
    conn: &mut PgConnection,
    id: Uuid,
    role: Option<Role>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE users SET operator = $2, operator_reads = $3 WHERE id = $1",
        id,
        role == Some(Role::Operator),
        role == Some(Role::OperatorRead)
    )
    .execute(conn)
    .await?;
    Ok(())
}
