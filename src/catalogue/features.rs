//! Features: what a plan lets an organization do, besides what it may use.
//! `[features]` lists them; `[plans.features]` says what a plan has. What a plan
//! does not mention is the feature's default, else off.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Spanned;
use utoipa::ToSchema;

use super::file::Problem;
use super::{Catalogue, Plan};

/// The largest number that every reader of JSON reads exactly.
pub const MAX_NUMBER: u64 = 9_007_199_254_740_991;
const MAX_WORD: usize = 64;
const MAX_ID: usize = 64;
const MAX_NAME: usize = 100;

/// What a feature's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// On or off.
    Flag,
    /// How many; 0 is off.
    Number,
    /// A word, such as a level of support; off without one.
    Text,
}

/// The value of a feature: `true`, `20` or `"gold"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum FeatureValue {
    Flag(bool),
    Number(u64),
    /// Never empty.
    Text(String),
}

/// A feature that plans may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    pub kind: FeatureKind,
    /// For people.
    pub name: String,
    /// What plans have that do not mention it; `None` for off.
    pub default: Option<FeatureValue>,
}

impl FeatureValue {
    /// Whether it lets its organization do anything.
    pub fn is_on(&self) -> bool {
        match self {
            Self::Flag(on) => *on,
            Self::Number(number) => *number > 0,
            Self::Text(_) => true,
        }
    }

    pub fn kind(&self) -> FeatureKind {
        match self {
            Self::Flag(_) => FeatureKind::Flag,
            Self::Number(_) => FeatureKind::Number,
            Self::Text(_) => FeatureKind::Text,
        }
    }
}

impl fmt::Display for FeatureValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(on) => on.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(word) => word.fmt(f),
        }
    }
}

impl FeatureKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Number => "number",
            Self::Text => "text",
        }
    }

    /// The value of a feature that is off; a text has none.
    pub fn off(self) -> Option<FeatureValue> {
        match self {
            Self::Flag => Some(FeatureValue::Flag(false)),
            Self::Number => Some(FeatureValue::Number(0)),
            Self::Text => None,
        }
    }

    /// Whether a stored value is of this kind; the file may have changed it since.
    pub fn admits(self, value: Option<&FeatureValue>) -> bool {
        value.map_or(self == Self::Text, |value| value.kind() == self)
    }

    /// PostgreSQL's names for the types of its values in JSON.
    pub fn json_types(self) -> &'static [&'static str] {
        match self {
            Self::Flag => &["boolean"],
            Self::Number => &["number"],
            Self::Text => &["string", "null"],
        }
    }

    /// Reads a value as it is typed.
    pub fn parse(self, text: &str) -> Result<Option<FeatureValue>, String> {
        let value = match self {
            Self::Flag => text.parse().ok().map(FeatureValue::Flag),
            Self::Number => digits(text)
                .filter(|number| *number <= MAX_NUMBER)
                .map(FeatureValue::Number),
            Self::Text => return self.word(text),
        };
        value.map(Some).ok_or_else(|| self.expected())
    }

    /// Reads a value from JSON, where null is a text that is off.
    pub fn read(self, value: &Value) -> Result<Option<FeatureValue>, String> {
        match (self, value) {
            (Self::Text, Value::Null) => Ok(None),
            (Self::Text, Value::String(text)) => self.word(text),
            (Self::Flag, Value::Bool(_)) | (Self::Number, Value::Number(_)) => {
                self.parse(&value.to_string())
            }
            _ => Err(self.expected()),
        }
    }

    fn word(self, text: &str) -> Result<Option<FeatureValue>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let plain = |c: char| c.is_ascii_graphic() || c == ' ';
        if text.len() > MAX_WORD || text.trim() != text || !text.chars().all(plain) {
            return Err(self.expected());
        }
        Ok(Some(FeatureValue::Text(text.to_owned())))
    }

    /// The values that are accepted, for an error message.
    fn expected(self) -> String {
        match self {
            Self::Flag => "is a flag; write true or false".to_owned(),
            Self::Number => {
                format!("is a number; write a whole number from 0 to {MAX_NUMBER}")
            }
            Self::Text => format!(
                "is a text; write at most {MAX_WORD} plain ASCII characters, such as \"gold\", or \
                 \"\" for none"
            ),
        }
    }
}

impl Catalogue {
    /// The features that plans may have, by their ids.
    pub fn features(&self) -> &BTreeMap<String, Feature> {
        &self.features
    }

    /// A plan's features with those that are off, but for texts.
    pub fn features_of(&self, plan: &Plan) -> BTreeMap<String, FeatureValue> {
        let value = |(id, feature): (&String, &Feature)| {
            let value = plan.features.get(id).cloned();
            Some((id.clone(), value.or_else(|| feature.kind.off())?))
        };
        self.features.iter().filter_map(value).collect()
    }
}

fn digits(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| all_digits)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeatureEntry {
    kind: FeatureKind,
    name: Spanned<String>,
    #[serde(default)]
    default: Option<Spanned<Written>>,
}

/// A value as the file has it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Written {
    Flag(bool),
    Number(i64),
    Text(String),
    Other(IgnoredAny),
}

/// A table whose keys are features.
pub(super) type Entries<T> = BTreeMap<Spanned<String>, T>;

/// Validates `[features]`.
pub(super) fn check_features(
    entries: Entries<FeatureEntry>,
) -> Result<BTreeMap<String, Feature>, Problem> {
    let mut features = BTreeMap::new();
    for (id, entry) in entries {
        let (at, id) = (id.span().start, id.into_inner());
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
            return Err((
                at,
                format!(
                    "the feature {id:?} needs a name of at most {MAX_ID} letters, digits, \"_\", \
                     \"-\" and \".\"; the one for people is `name`"
                ),
            ));
        }
        let (name_at, name) = (entry.name.span().start, entry.name.into_inner());
        let length = name.chars().count();
        if name.trim().is_empty() || length > MAX_NAME || name.chars().any(char::is_control) {
            return Err((
                name_at,
                format!(
                    "the name of the feature {id:?} must have 1 to {MAX_NAME} characters on one \
                     line"
                ),
            ));
        }
        let kind = entry.kind;
        let default = entry.default.map(|written| {
            let at = written.span().start;
            let value = written.into_inner().read(kind);
            value.map_err(|expected| (at, format!("the default: {id:?} {expected}")))
        });
        let default = default.transpose()?.flatten();
        features.insert(
            id,
            Feature {
                kind,
                name,
                default,
            },
        );
    }
    Ok(features)
}

/// Validates a plan's features, and completes them with the defaults.
pub(super) fn check_plan(
    tier: &str,
    features: &BTreeMap<String, Feature>,
    entries: Entries<Spanned<Written>>,
) -> Result<BTreeMap<String, FeatureValue>, Problem> {
    let defaults = features.iter().map(|(id, feature)| {
        let value = feature.default.clone();
        (id.clone(), value)
    });
    let mut values: BTreeMap<String, Option<FeatureValue>> = defaults.collect();
    for (id, written) in entries {
        let (id_at, id) = (id.span().start, id.into_inner());
        let Some(feature) = features.get(&id) else {
            return Err((id_at, unknown(&id, features)));
        };
        let (at, value) = (written.span().start, written.into_inner());
        let value = value.read(feature.kind).map_err(|expected| {
            let problem = format!("the features of {tier:?}: {id:?} {expected}");
            (at, problem)
        })?;
        values.insert(id, value);
    }
    let values = values.into_iter();
    Ok(values
        .filter_map(|(id, value)| Some((id, value?)))
        .collect())
}

/// Says that there is no such feature, and which there are.
pub fn unknown(id: &str, features: &BTreeMap<String, Feature>) -> String {
    let known: Vec<&str> = features.keys().map(String::as_str).collect();
    let known = match known.as_slice() {
        [] => "which has none".to_owned(),
        known => format!("which has {}", known.join(", ")),
    };
    format!("{id:?} is not among the catalogue's [features], {known}")
}

/// Reads a value as the file has it.
pub(super) fn check_value(
    written: Written,
    kind: FeatureKind,
) -> Result<Option<FeatureValue>, String> {
    written.read(kind)
}

impl Written {
    fn read(self, kind: FeatureKind) -> Result<Option<FeatureValue>, String> {
        let value = match self {
            Self::Flag(on) => Value::Bool(on),
            Self::Number(number) => Value::Number(number.into()),
            Self::Text(text) => Value::String(text),
            Self::Other(_) => return Err(kind.expected()),
        };
        kind.read(&value)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::{BUILT_IN, CatalogueError};
    use super::*;

    const LIST: &str = "\
sso = { kind = \"flag\", name = \"Single sign-on\" }
projects = { kind = \"number\", name = \"Projects\", default = 3 }
support = { kind = \"text\", name = \"Support\", default = \"community\" }";

    /// A catalogue of one plan. `list` begins on line 5.
    fn catalogue(list: &str, of_free: &str) -> Result<Catalogue, CatalogueError> {
        let text = format!(
            "[metrics]\napi_calls = {{ aggregation = \"sum\" }}\n\n[features]\n{list}\n\n\
             [[plans]]\ntier = \"free\"\nname = \"Free\"\n\
             price = {{ amount = 0, currency = \"usd\", interval = \"month\" }}\n\
             quotas.api_calls = {{ quota = 1, over_limit = \"hard\" }}\n\
             [plans.features]\n{of_free}\n"
        );
        Catalogue::parse(Path::new("plans.toml"), &text, &[])
    }

    fn of_free(lines: &str) -> Value {
        let catalogue = catalogue(LIST, lines).unwrap();
        json!(catalogue.plan("free").unwrap().features)
    }

    #[test]
    fn a_plan_has_what_it_says_else_the_defaults() {
        let defaults = json!({"projects": 3, "support": "community"});
        assert_eq!(of_free(""), defaults);
        let own = "sso = true\nprojects = 20\nsupport = \"gold\"";
        let stated = json!({"sso": true, "projects": 20, "support": "gold"});
        assert_eq!(of_free(own), stated);
        let off = "sso = false\nprojects = 0\nsupport = \"\"";
        assert_eq!(of_free(off), json!({"sso": false, "projects": 0}));
        let largest = format!("projects = {MAX_NUMBER}");
        assert_eq!(of_free(&largest)["projects"], json!(MAX_NUMBER));
        let read: BTreeMap<String, FeatureValue> = serde_json::from_value(stated.clone()).unwrap();
        assert_eq!(json!(read), stated);
    }

    #[test]
    fn the_built_in_plans_have_features() {
        let catalogue = Catalogue::parse(Path::new("plans.toml"), BUILT_IN, &[]).unwrap();
        let of = |tier| json!(catalogue.plan(tier).unwrap().features);
        assert_eq!(of("free"), json!({"projects": 3, "support": "community"}));
        let enterprise = json!({"sso": true, "projects": 1000, "support": "priority"});
        assert_eq!(of("enterprise"), enterprise);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let of_plan = |line: &str| (catalogue(LIST, line).unwrap_err(), 15);
        let of_list = |line: &str| (catalogue(line, "").unwrap_err(), 5);
        for ((error, line), problem) in [
            (
                of_plan("seats = 3"),
                "\"seats\" is not among the catalogue's [features], which has projects, sso, support",
            ),
            (
                of_plan("sso = 1"),
                "the features of \"free\": \"sso\" is a flag; write true or false",
            ),
            (of_plan("sso = \"yes\""), "is a flag; write true or false"),
            (
                of_plan("projects = true"),
                "is a number; write a whole number",
            ),
            (of_plan("projects = -1"), "from 0 to 9007199254740991"),
            (
                of_plan("projects = 9_007_199_254_740_992"),
                "from 0 to 9007199254740991",
            ),
            (of_plan("projects = 1.5"), "write a whole number"),
            (of_plan("projects = \"20\""), "write a whole number"),
            (of_plan("support = 1"), "is a text; write at most 64"),
            (of_plan("support = [\"gold\"]"), "is a text"),
            (of_plan("support = \" gold\""), "is a text"),
            (of_plan("support = \"größer\""), "plain ASCII"),
            (
                of_plan(&format!("support = \"{}\"", "x".repeat(65))),
                "at most 64",
            ),
            (of_plan("support = 1979-05-27"), "is a text"),
            (
                of_list("sso = { kind = \"boolean\", name = \"S\" }"),
                "unknown variant `boolean`",
            ),
            (of_list("sso = { kind = \"flag\" }"), "missing field `name`"),
            (
                of_list("sso = { kind = \"flag\", name = \" \" }"),
                "the name of the feature \"sso\"",
            ),
            (
                of_list("sso = { kind = \"flag\", name = \"S\", value = true }"),
                "unknown field `value`",
            ),
            (
                of_list("sso = { kind = \"flag\", name = \"S\", default = 1 }"),
                "the default: \"sso\" is a flag",
            ),
            (
                of_list("\"s s o\" = { kind = \"flag\", name = \"S\" }"),
                "letters, digits",
            ),
            (
                of_list("\"\" = { kind = \"flag\", name = \"S\" }"),
                "letters, digits",
            ),
        ] {
            let error = error.to_string();
            let at = format!("plans.toml, line {line}: ");
            assert!(error.contains(&at), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_typed_value_is_read_by_its_kind() {
        let read = |kind: FeatureKind, text: &str| kind.parse(text).map(|value| json!(value));
        assert_eq!(read(FeatureKind::Flag, "true"), Ok(json!(true)));
        assert_eq!(read(FeatureKind::Number, "20"), Ok(json!(20)));
        assert_eq!(read(FeatureKind::Text, "gold"), Ok(json!("gold")));
        assert_eq!(read(FeatureKind::Text, ""), Ok(Value::Null));
        for (kind, text) in [
            (FeatureKind::Flag, "yes"),
            (FeatureKind::Flag, ""),
            (FeatureKind::Number, "-1"),
            (FeatureKind::Number, "+1"),
            (FeatureKind::Number, "1.0"),
            (FeatureKind::Number, "9007199254740992"),
            (FeatureKind::Number, "unlimited"),
            (FeatureKind::Text, "a\nb"),
        ] {
            assert!(read(kind, text).is_err(), "{kind:?} {text:?}");
        }
        let json = |kind: FeatureKind, value: Value| kind.read(&value);
        assert!(json(FeatureKind::Number, json!(1.5)).is_err());
        assert!(json(FeatureKind::Number, json!("20")).is_err());
        assert!(json(FeatureKind::Flag, json!("true")).is_err());
        assert!(json(FeatureKind::Flag, Value::Null).is_err());
        assert_eq!(json(FeatureKind::Text, Value::Null), Ok(None));
    }
}
