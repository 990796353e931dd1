//! What a change of plan does to features.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use crate::catalogue::Plan;
use crate::catalogue::features::FeatureValue;

/// A feature that a change of plan gives, takes or changes. An operator's override
/// stays in force beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureChange {
    #[schema(example = "sso")]
    pub feature: String,
    /// Null for a text that is off.
    #[schema(required)]
    pub current_value: Option<FeatureValue>,
    #[schema(required)]
    pub new_value: Option<FeatureValue>,
}

/// The features that differ between two plans, by name; none for a plan that the
/// catalogue no longer has.
pub fn changes(current: Option<&Plan>, new: &Plan) -> Vec<FeatureChange> {
    let Some(current) = current else {
        return Vec::new();
    };
    let names = current.features.keys().chain(new.features.keys());
    let names: BTreeSet<&String> = names.collect();
    let change = |name: &String| {
        let (before, after) = (current.features.get(name), new.features.get(name));
        // A value that is not mentioned is off: false, 0, or no text.
        let off = before.or(after)?.kind().off();
        let (before, after) = (before.cloned(), after.cloned());
        let (before, after) = (before.or_else(|| off.clone()), after.or(off));
        (before != after).then(|| FeatureChange {
            feature: name.clone(),
            current_value: before,
            new_value: after,
        })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn what_is_gained_and_lost_is_named_with_both_values() {
        let catalogue = Catalogue::load(None).unwrap();
        let between = |current: &str, new: &str| {
            let plan = |tier| catalogue.plan(tier).unwrap();
            json!(changes(Some(plan(current)), plan(new)))
        };
        let change = |feature: &str, current: serde_json::Value, new: serde_json::Value| json!({"feature": feature, "currentValue": current, "newValue": new});
        assert_eq!(
            between("free", "enterprise"),
            json!([
                change("projects", json!(3), json!(1000)),
                change("sso", json!(false), json!(true)),
                change("support", json!("community"), json!("priority")),
            ])
        );
        let back = between("enterprise", "free");
        assert_eq!(back[1], change("sso", json!(true), json!(false)));
        assert_eq!(between("standard", "standard"), json!([]));
    }
}
