//! Why an organization has a feature, or has not.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, Entries};
use super::{Cause, CauseKind, ExplainError, Explanation, at};
use crate::catalogue::Catalogue;
use crate::features::{self, Source};

/// Audit entries that an answer shows.
const SHOWN: i64 = 10;

pub async fn explain(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    feature: &str,
) -> Result<Explanation, ExplainError> {
    let held = store::organization(conn, organization_id).await?;
    let held = held.ok_or(ExplainError::NoOrganization(organization_id))?;
    let rows = features::list(conn, catalogue, organization_id).await?;
    let Some(row) = rows.iter().find(|row| row.feature == feature) else {
        let known: Vec<&str> = rows.iter().map(|row| &*row.feature).collect();
        let known = match known.as_slice() {
            [] => "the catalogue has no [features]".to_owned(),
            known => format!("expected one of {}", known.join(", ")),
        };
        let feature = feature.to_owned();
        return Err(ExplainError::NoFeature { feature, known });
    };
    let shown = |value: &Option<_>| match value {
        Some(value) => format!("{value}"),
        None => "off".to_owned(),
    };
    let value = shown(&row.value);
    let plan = held.plan();
    let why = match row.source {
        Source::Override => "an operator set it".to_owned(),
        Source::Plan => format!("{plan} gives it"),
        Source::Off => format!("neither {plan} nor an operator gives it a value"),
    };
    let mut causes = Vec::new();
    if let Some(set) = &row.r#override {
        let until = match set.expires_at {
            Some(end) => format!("until {}", at(end)),
            None => "for good".to_owned(),
        };
        let sentence = format!(
            "{} set it to {} at {} {until}: {}.",
            set.set_by,
            shown(&set.value),
            at(set.created_at),
            set.reason
        );
        let facts = serde_json::to_value(set).unwrap_or_default();
        causes.push(Cause::new(CauseKind::Override, sentence, facts));
    }
    let sentence = format!("By {plan}, it is {}.", shown(&row.plan_value));
    let facts = json!({
        "planTier": held.plan_tier, "planVersion": held.plan_version, "value": row.plan_value,
    });
    causes.push(Cause::new(CauseKind::Rule, sentence, facts));
    let entries = Entries {
        resource_id: Some(feature),
        ..Entries::of(organization_id, SHOWN)
    };
    for entry in store::entries(conn, &entries).await? {
        causes.push(entry.cause());
    }
    Ok(Explanation {
        subject: feature.to_owned(),
        organization_id: Some(organization_id),
        answer: format!("{feature} is {value}: {why}."),
        causes,
    })
}
