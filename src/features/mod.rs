//! Features: what an organization may do, by its plan or by an operator's
//! override. They are assigned with the plan, in one transaction. Nothing here
//! counts usage, and a request that asks for a feature changes nothing.

mod decision;
mod effective;
mod lookup;
mod overrides;
pub mod routes;
mod store;

pub use decision::{FeatureAllowed, NOT_INCLUDED, included, not_included, unknown};
pub use effective::{FeatureRow, Needed, Source, Values};
pub use lookup::Lookup;
pub use overrides::{
    Given, Seen, SetError, SetFeature, UnsetFeature, idle, set, set_as_seen, sweep, unset,
    unset_as_seen,
};
pub use store::assign;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::catalogue::Catalogue;

/// The audit action for an operator who viewed an organization's features.
pub const FEATURES_LISTED: &str = "features_listed";

/// The audit actions this module writes.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    use overrides::{EXPIRED, SET, UNSET};
    [SET, UNSET, EXPIRED, FEATURES_LISTED].into_iter()
}

/// The features of an organization, by their names; every feature of the
/// catalogue, also those that are off.
pub async fn list(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
) -> Result<Vec<FeatureRow>, sqlx::Error> {
    let held = store::held(conn, organization_id).await?;
    Ok(held.rows(catalogue))
}

/// What an organization has, from rows of feature, whether it is overridden, and
/// value, as a list of lists.
pub fn values_of(rows: Value) -> Result<Values, sqlx::Error> {
    let rows: Vec<(String, bool, Value)> =
        serde_json::from_value(rows).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let mut values = Values::default();
    for (feature, overridden, value) in rows {
        values.insert(feature, overridden, store::value_of(value)?);
    }
    Ok(values)
}
