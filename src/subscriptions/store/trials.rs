//! SQL of cards that have begun a trial.

use sqlx::PgConnection;
use uuid::Uuid;

/// Claims a card's trial for an organization. Returns false if another one has had it. Of
/// two at once one gets it; a claim that came to no trial within an hour holds nobody up.
pub async fn claim(
    conn: &mut PgConnection,
    digest: &[u8],
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query_scalar!(
        "INSERT INTO trial_cards AS known (digest, organization_id) VALUES ($1, $2)
         ON CONFLICT (digest) DO UPDATE
           SET organization_id = excluded.organization_id, claimed_at = now()
         WHERE known.organization_id = excluded.organization_id
            OR (known.claimed_at < now() - interval '1 hour'
                AND NOT EXISTS (SELECT FROM billing_subscriptions s
                                 WHERE s.organization_id = known.organization_id
                                   AND s.trial_start IS NOT NULL))
         RETURNING digest",
        digest,
        organization_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(claimed.is_some())
}

/// Whether another organization has claimed the trial of the card.
pub async fn is_claimed_elsewhere(
    conn: &mut PgConnection,
    digest: &[u8],
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM trial_cards
                           WHERE digest = $1 AND organization_id <> $2
                             AND (claimed_at >= now() - interval '1 hour'
                                  OR EXISTS (SELECT FROM billing_subscriptions s
                                              WHERE s.organization_id = trial_cards.organization_id
                                                AND s.trial_start IS NOT NULL))) AS "claimed!""#,
        digest,
        organization_id
    )
    .fetch_one(conn)
    .await
}
