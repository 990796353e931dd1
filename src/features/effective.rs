//! The value in force of a feature: the override's, else the plan's, else off.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalogue::Catalogue;
use crate::catalogue::features::{Feature, FeatureKind, FeatureValue};

/// Where the value of a feature comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FeatureSource)]
pub enum Source {
    Plan,
    Override,
    /// Neither the plan nor an override gives it a value.
    Off,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Override => "override",
            Self::Off => "off",
        }
    }
}

/// What an operator set instead of the plan's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FeatureOverride)]
pub struct Override {
    /// Null for a text that is off.
    #[schema(required)]
    pub value: Option<FeatureValue>,
    #[schema(example = "promised until the migration is done")]
    pub reason: String,
    /// When it ends by itself; null if it does not.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// An operator's id, or the login name of whoever ran the command.
    pub set_by: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A feature of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Feature)]
pub struct FeatureRow {
    #[schema(example = "sso")]
    pub feature: String,
    /// The name for people.
    #[schema(example = "Single sign-on")]
    pub name: String,
    pub kind: FeatureKind,
    /// The value in force; null for a text that is off.
    #[schema(required)]
    pub value: Option<FeatureValue>,
    pub source: Source,
    /// What the plan gives; null for a text that is off.
    #[schema(required)]
    pub plan_value: Option<FeatureValue>,
    /// The override in force.
    #[schema(required)]
    pub r#override: Option<Override>,
}

/// The values that an organization has by its plan, and by overrides in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    by_plan: HashMap<String, FeatureValue>,
    /// `None` for a text that is off.
    overridden: HashMap<String, Option<FeatureValue>>,
}

/// A feature that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub feature: String,
    pub kind: FeatureKind,
}

impl Needed {
    /// `None` if the catalogue has no such feature.
    pub fn of(catalogue: &Catalogue, id: &str) -> Option<Self> {
        let feature = catalogue.features().get(id)?;
        Some(Self {
            feature: id.to_owned(),
            kind: feature.kind,
        })
    }
}

impl Values {
    pub(super) fn insert(
        &mut self,
        feature: String,
        overridden: bool,
        value: Option<FeatureValue>,
    ) {
        if overridden {
            self.overridden.insert(feature, value);
        } else {
            self.by_plan.extend(value.map(|value| (feature, value)));
        }
    }

    /// The value, if it is on.
    pub fn grant(&self, needed: &Needed) -> Option<FeatureValue> {
        let (value, _) = self.in_force(&needed.feature, needed.kind);
        value.filter(FeatureValue::is_on)
    }

    /// The value in force. One whose kind the file has changed since counts as absent.
    fn in_force(&self, id: &str, kind: FeatureKind) -> (Option<FeatureValue>, Source) {
        let overridden = self.overridden.get(id);
        if let Some(value) = overridden.filter(|value| kind.admits(value.as_ref())) {
            return (value.clone(), Source::Override);
        }
        match self.of_plan(id, kind) {
            Some(value) => (Some(value), Source::Plan),
            None => (kind.off(), Source::Off),
        }
    }

    fn of_plan(&self, id: &str, kind: FeatureKind) -> Option<FeatureValue> {
        let value = self.by_plan.get(id);
        value.filter(|value| kind.admits(Some(value))).cloned()
    }
}

/// What an organization has, with why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub(super) values: Values,
    pub(super) overrides: HashMap<String, Override>,
}

impl Held {
    /// Each feature of the catalogue.
    pub fn rows(&self, catalogue: &Catalogue) -> Vec<FeatureRow> {
        let features = catalogue.features().iter();
        features
            .map(|(id, feature)| self.row(id, feature))
            .collect()
    }

    pub fn row(&self, id: &str, feature: &Feature) -> FeatureRow {
        let kind = feature.kind;
        let (value, source) = self.values.in_force(id, kind);
        let set = self.overrides.get(id);
        FeatureRow {
            feature: id.to_owned(),
            name: feature.name.clone(),
            kind,
            value,
            source,
            plan_value: self.values.of_plan(id, kind).or_else(|| kind.off()),
            r#override: set.filter(|_| source == Source::Override).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(plan: Option<FeatureValue>, set: Option<Option<FeatureValue>>) -> Values {
        let id = || "f".to_owned();
        Values {
            by_plan: plan.map(|value| (id(), value)).into_iter().collect(),
            overridden: set.map(|value| (id(), value)).into_iter().collect(),
        }
    }

    #[test]
    fn the_override_goes_first_then_the_plan_then_off() {
        use FeatureValue::{Flag, Number, Text};
        let gold = || Some(Text("gold".to_owned()));
        let cases = [
            (
                FeatureKind::Flag,
                None,
                None,
                Some(Flag(false)),
                Source::Off,
            ),
            (
                FeatureKind::Number,
                None,
                None,
                Some(Number(0)),
                Source::Off,
            ),
            (FeatureKind::Text, None, None, None, Source::Off),
            (FeatureKind::Text, gold(), None, gold(), Source::Plan),
            (
                FeatureKind::Text,
                gold(),
                Some(None),
                None,
                Source::Override,
            ),
            (
                FeatureKind::Flag,
                Some(Flag(true)),
                Some(Some(Flag(false))),
                Some(Flag(false)),
                Source::Override,
            ),
            // The file made a number of what was a flag.
            (
                FeatureKind::Number,
                Some(Number(3)),
                Some(Some(Flag(true))),
                Some(Number(3)),
                Source::Plan,
            ),
            (
                FeatureKind::Number,
                Some(Flag(true)),
                None,
                Some(Number(0)),
                Source::Off,
            ),
        ];
        for (kind, plan, set, value, source) in cases {
            let values = values(plan, set);
            assert_eq!(
                values.in_force("f", kind),
                (value.clone(), source),
                "{kind:?}"
            );
            let needed = Needed {
                feature: "f".to_owned(),
                kind,
            };
            let granted = value.filter(FeatureValue::is_on);
            assert_eq!(values.grant(&needed), granted, "{kind:?}");
        }
    }
}
