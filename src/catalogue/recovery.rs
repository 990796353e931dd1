//! `[recovery]`: what becomes of access when a payment fails, and who gets a trial.

use billing_domain::past_due::{MAX_DAYS, PastDueAccess};
use serde::Deserialize;
use toml::{Spanned, Value};

use super::Catalogue;
use super::file::Problem;

/// What Stripe does when a trial ends and there is nothing to charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialEnd {
    Cancel,
    Pause,
}

impl TrialEnd {
    /// Stripe's `missing_payment_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }
}

/// Whether a trial begins without a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrialCard {
    /// Stripe's page asks for one, and the API does not.
    #[default]
    ByPage,
    Required,
    Optional,
}

/// Who gets one trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrialPer {
    #[default]
    Organization,
    /// An organization, and a card: one that had a trial elsewhere gets no other.
    Card,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recovery {
    past_due_access: PastDueAccess,
    trial_end_without_card: Option<TrialEnd>,
    trial_card: TrialCard,
    one_trial_per: TrialPer,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoveryEntry {
    past_due_access: Option<Spanned<Value>>,
    trial_end_without_card: Option<Spanned<Value>>,
    trial_card: Option<Spanned<Value>>,
    one_trial_per: Option<Spanned<Value>>,
}

impl RecoveryEntry {
    pub(super) fn check(self) -> Result<Recovery, Problem> {
        let days = format!("\"keep\", \"none\", or days from \"1d\" to \"{MAX_DAYS}d\"");
        let access = read(
            "past_due_access",
            self.past_due_access,
            &days,
            PastDueAccess::read,
        )?;
        let end = read(
            "trial_end_without_card",
            self.trial_end_without_card,
            "\"cancel\" or \"pause\"",
            |word| match word {
                "cancel" => Some(TrialEnd::Cancel),
                "pause" => Some(TrialEnd::Pause),
                _ => None,
            },
        )?;
        let card = read(
            "trial_card",
            self.trial_card,
            "\"required\" or \"optional\"",
            |word| match word {
                "required" => Some(TrialCard::Required),
                "optional" => Some(TrialCard::Optional),
                _ => None,
            },
        )?;
        let at = self.one_trial_per.as_ref().map(|entry| entry.span().start);
        let per = read(
            "one_trial_per",
            self.one_trial_per,
            "\"organization\" or \"card\"",
            |word| match word {
                "organization" => Some(TrialPer::Organization),
                "card" => Some(TrialPer::Card),
                _ => None,
            },
        )?;
        if let (Some(TrialPer::Card), Some(TrialCard::Optional), Some(at)) = (per, card, at) {
            let problem = "one_trial_per = \"card\" needs the card of each trial; leave \
                           trial_card out, or set it to \"required\"";
            return Err((at, problem.to_owned()));
        }
        Ok(Recovery {
            past_due_access: access.unwrap_or_default(),
            trial_end_without_card: end,
            trial_card: card.unwrap_or_default(),
            one_trial_per: per.unwrap_or_default(),
        })
    }
}

fn read<T>(
    name: &str,
    entry: Option<Spanned<Value>>,
    expected: &str,
    known: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(entry) = entry else {
        return Ok(None);
    };
    let found = entry.get_ref().as_str().and_then(known);
    let problem = || format!("{name} is {}; expected {expected}", entry.get_ref());
    found
        .map(Some)
        .ok_or_else(|| (entry.span().start, problem()))
}

impl Catalogue {
    /// How long a subscription grants its plan after a payment has failed.
    pub fn past_due_access(&self) -> PastDueAccess {
        self.recovery.past_due_access
    }

    /// What Stripe is told to do when a trial ends without a card; `None` leaves it to
    /// Stripe, which makes an invoice that nobody pays.
    pub fn trial_end_without_card(&self) -> Option<TrialEnd> {
        self.recovery.trial_end_without_card
    }

    pub fn trial_card(&self) -> TrialCard {
        self.recovery.trial_card
    }

    pub fn one_trial_per(&self) -> TrialPer {
        self.recovery.one_trial_per
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalogue::BUILT_IN;

    fn with(lines: &str) -> Result<Catalogue, String> {
        let text = BUILT_IN.replacen(
            "[proration]\n",
            &format!("[recovery]\n{lines}\n[proration]\n"),
            1,
        );
        Catalogue::parse(Path::new("plans.toml"), &text, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_it_always_was() {
        for catalogue in [Catalogue::load(None).unwrap(), with("").unwrap()] {
            assert_eq!(catalogue.past_due_access(), PastDueAccess::Keep);
            assert_eq!(catalogue.trial_end_without_card(), None);
            assert_eq!(catalogue.trial_card(), TrialCard::ByPage);
            assert_eq!(catalogue.one_trial_per(), TrialPer::Organization);
        }
    }

    #[test]
    fn the_policies_are_read() {
        let lines = "past_due_access = \"7d\"\ntrial_end_without_card = \"pause\"\n\
                     trial_card = \"required\"\none_trial_per = \"card\"";
        let catalogue = with(lines).unwrap();
        assert_eq!(catalogue.past_due_access(), PastDueAccess::Days(7));
        assert_eq!(catalogue.trial_end_without_card(), Some(TrialEnd::Pause));
        assert_eq!(catalogue.trial_card(), TrialCard::Required);
        assert_eq!(catalogue.one_trial_per(), TrialPer::Card);
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_what_is_right() {
        let line = BUILT_IN.lines().position(|line| line == "[proration]");
        let line = line.unwrap() + 2;
        let days = "expected \"keep\", \"none\", or days from \"1d\" to \"365d\"";
        for (lines, problem) in [
            (
                "past_due_access = \"soon\"",
                format!("past_due_access is \"soon\"; {days}"),
            ),
            (
                "past_due_access = \"0d\"",
                format!("past_due_access is \"0d\"; {days}"),
            ),
            (
                "past_due_access = \"366d\"",
                format!("past_due_access is \"366d\"; {days}"),
            ),
            (
                "past_due_access = 7",
                format!("past_due_access is 7; {days}"),
            ),
            (
                "trial_end_without_card = \"create_invoice\"",
                "trial_end_without_card is \"create_invoice\"; expected \"cancel\" or \"pause\""
                    .to_owned(),
            ),
            (
                "trial_card = true",
                "trial_card is true; expected \"required\" or \"optional\"".to_owned(),
            ),
            (
                "one_trial_per = \"fingerprint\"",
                "one_trial_per is \"fingerprint\"; expected \"organization\" or \"card\""
                    .to_owned(),
            ),
            (
                "one_trial_per = \"card\"\ntrial_card = \"optional\"",
                "one_trial_per = \"card\" needs the card of each trial; leave trial_card out, \
                 or set it to \"required\""
                    .to_owned(),
            ),
        ] {
            let said = with(lines).unwrap_err();
            assert_eq!(
                said,
                format!("PLANS_FILE: plans.toml, line {line}: {problem}")
            );
        }
        let unknown = with("dunning = 3").unwrap_err();
        assert!(unknown.contains("unknown field `dunning`"), "{unknown}");
    }
}
