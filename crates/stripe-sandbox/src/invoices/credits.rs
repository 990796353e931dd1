//! Which lines of which invoice a proration gives credit for.

use crate::invoices::model::{Content, Status};
use crate::state::State;

/// The lines that were charged, and are credited now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credited {
    /// The invoice.
    pub invoice: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// Ties each credit to what its subscription item was charged last for the
/// period that it ends.
pub fn link(state: &State, contents: &mut [Content]) {
    for content in contents {
        if content.proration && content.amount < 0 {
            content.credited = last_charged(state, content);
        }
    }
}

fn last_charged(state: &State, credit: &Content) -> Option<Credited> {
    let item = credit.item.as_ref()?;
    state.invoices.iter().rev().find_map(|invoice| {
        if matches!(invoice.status, Status::Void | Status::Draft) {
            return None;
        }
        let lines: Vec<String> = invoice
            .lines
            .iter()
            .filter(|line| {
                let charged = &line.content;
                charged.item.as_ref() == Some(item)
                    && charged.amount > 0
                    && charged.period.1 == credit.period.1
            })
            .map(|line| line.id.clone())
            .collect();
        (!lines.is_empty()).then(|| Credited {
            invoice: invoice.id.clone(),
            lines,
        })
    })
}
