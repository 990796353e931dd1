//! Features: assigned with the plan, overridden by operators, asked for by the
//! product.

mod assignment;
mod commands;
mod enforce;
mod overrides;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;
use valuecanvas_billing::audit::Actor;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::db::TenantTx;
use valuecanvas_billing::features::{self, FeatureRow, Given, SetError, SetFeature};

/// A command of an operator at a terminal.
pub fn override_of(organization_id: Uuid, feature: &str, value: &str) -> SetFeature {
    SetFeature {
        organization_id,
        feature: feature.to_owned(),
        value: Given::Text(value.to_owned()),
        reason: "a promise".to_owned(),
        expires_at: None,
        actor: Actor::System,
        client: None,
    }
}

pub async fn set(pool: &PgPool, command: &SetFeature) -> Result<FeatureRow, SetError> {
    let catalogue = Catalogue::load(None).unwrap();
    features::set(pool, &catalogue, command).await
}

/// The values in force and where they come from: `{"sso": [true, "plan"]}`.
pub async fn in_force(pool: &PgPool, organization: Uuid) -> Value {
    let catalogue = Catalogue::load(None).unwrap();
    let mut tx = TenantTx::begin(pool, organization).await.unwrap();
    let rows = features::list(tx.conn(), &catalogue, organization)
        .await
        .unwrap();
    let entries = rows.into_iter();
    let entries = entries.map(|row| (row.feature, json!([row.value, row.source])));
    Value::Object(entries.collect())
}
