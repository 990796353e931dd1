//! When changes of plan are made, unless who asks says so.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Catalogue, UsageAtChanges};

/// When a change of plan takes effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ChangeTime)]
pub enum When {
    #[default]
    Now,
    /// With the next billing period.
    PeriodEnd,
}

impl When {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::PeriodEnd => "period_end",
        }
    }
}

/// `[changes]`: when changes to a higher and to a lower plan take effect, and what they
/// do to the usage of their period.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Changes {
    upgrade: When,
    downgrade: When,
    pub usage: UsageAtChanges,
}

impl Catalogue {
    /// When a change between two tiers takes effect by default.
    pub fn when(&self, from: &str, to: &str) -> When {
        if self.rank(to) >= self.rank(from) {
            self.changes.upgrade
        } else {
            self.changes.downgrade
        }
    }

    /// When other seats of the same plan, or other add-ons beside it, take effect by
    /// default: more of them as a higher plan, fewer as a lower one.
    pub fn when_more(&self, more: bool) -> When {
        match more {
            true => self.changes.upgrade,
            false => self.changes.downgrade,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_file_says_when_changes_take_effect() {
        let built_in = Catalogue::load(None).unwrap();
        assert_eq!(built_in.when("standard", "enterprise"), When::Now);
        assert_eq!(built_in.when("enterprise", "standard"), When::Now);
        let text = include_str!("../../config/plans.toml");
        let (before, after) = text.split_once("\n[changes]\n").unwrap();
        let (_, after) = after.split_once("\n\n").unwrap();
        let with = |changes: &str| {
            let text = format!("{before}\n[changes]\n{changes}\n{after}");
            Catalogue::parse(Path::new("plans.toml"), &text, &[])
        };
        let catalogue = with("downgrade = \"period_end\"").unwrap();
        assert_eq!(catalogue.when("standard", "enterprise"), When::Now);
        assert_eq!(catalogue.when("enterprise", "standard"), When::PeriodEnd);
        let problem = with("downgrade = \"later\"").unwrap_err().to_string();
        assert!(
            problem.contains("plans.toml, line ") && problem.contains("`now` or `period_end`"),
            "{problem}"
        );
    }
}
