//! What metrics are called by people, on invoices above all.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Catalogue;
use super::file::Problem;

const MAX_NAME_CHARS: usize = 100;
/// Stripe's longest label of a unit.
const MAX_UNIT_CHARS: usize = 12;

/// A metric's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricName {
    /// Such as `LLM tokens`.
    pub name: String,
    /// What one is called, such as `token`.
    pub unit: Option<String>,
}

/// Checks the names that the file gives; those of metrics without one are left out.
pub(super) fn check<'a>(
    entries: impl Iterator<Item = (&'a str, Option<Spanned<String>>, Option<Spanned<String>>)>,
) -> Result<BTreeMap<String, MetricName>, Problem> {
    let mut names = BTreeMap::<String, MetricName>::new();
    for (metric, name, unit) in entries {
        let unit_at = unit.as_ref().map(|unit| unit.span().start);
        let unit = unit
            .map(|unit| text(metric, "unit", &unit, MAX_UNIT_CHARS))
            .transpose()?;
        let Some(name) = name else {
            if let Some(at) = unit_at {
                let problem = format!("the unit of {metric:?} needs a name beside it");
                return Err((at, problem));
            }
            continue;
        };
        let at = name.span().start;
        let name = text(metric, "name", &name, MAX_NAME_CHARS)?;
        if let Some((other, _)) = names.iter().find(|(_, one)| one.name == name) {
            return Err((
                at,
                format!("{other:?} and {metric:?} have one name, {name:?}"),
            ));
        }
        names.insert(metric.to_owned(), MetricName { name, unit });
    }
    Ok(names)
}

fn text(metric: &str, what: &str, value: &Spanned<String>, most: usize) -> Result<String, Problem> {
    let text = value.get_ref().trim();
    if text.is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
        let problem = format!("the {what} of {metric:?} must have 1 to {most} characters");
        return Err((value.span().start, problem));
    }
    Ok(text.to_owned())
}

impl Catalogue {
    /// The name and unit that the file gives a metric.
    pub fn metric_name(&self, metric: &str) -> Option<&MetricName> {
        self.names.get(metric)
    }

    /// The name that the file gives a metric.
    pub fn given_name(&self, metric: &str) -> Option<&str> {
        self.metric_name(metric).map(|one| one.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::catalogue::{BUILT_IN, Catalogue, CatalogueError};

    fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        Catalogue::parse(Path::new("plans.toml"), text, &[])
    }

    #[test]
    fn metrics_have_names_for_people() {
        let catalogue = parse(BUILT_IN).unwrap();
        let named = catalogue.metric_name("storage_gb").unwrap();
        assert_eq!(
            (named.name.as_str(), named.unit.as_deref()),
            ("Storage", Some("GB"))
        );
        assert_eq!(catalogue.given_name("unknown"), None);
        assert!(!catalogue.automatic_tax());
        let taxed = parse(&format!("{BUILT_IN}\n[tax]\nautomatic = true\n")).unwrap();
        assert!(taxed.automatic_tax());
        for (written, problem) in [
            (
                "name = \" \"",
                "the name of \"api_calls\" must have 1 to 100 characters",
            ),
            (
                "unit = \"call\"",
                "the unit of \"api_calls\" needs a name beside it",
            ),
            (
                "name = \"Calls\", unit = \"thirteen char\"",
                "the unit of \"api_calls\" must have 1 to 12 characters",
            ),
            ("name = \"LLM tokens\"", "have one name, \"LLM tokens\""),
        ] {
            let given = "name = \"API calls\", unit = \"call\"";
            let error = parse(&BUILT_IN.replacen(given, written, 1)).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(", line "), "{error}");
        }
        let wrong = parse(&format!("{BUILT_IN}\n[tax]\nautomatic = \"yes\"\n")).unwrap_err();
        assert!(wrong.to_string().contains("line"), "{wrong}");
    }
}
