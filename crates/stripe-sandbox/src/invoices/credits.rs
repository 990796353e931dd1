//! Links each proration credit to the invoice lines that it credits.

use crate::invoices::model::{LineContent, Status};
use crate::state::State;

/// The charged lines that a credit refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditedLines {
    pub invoice: String,
    pub lines: Vec<String>,
}

/// Links each credit to the last charge of its subscription item for the same
/// period.
pub fn link_credits(state: &State, contents: &mut [LineContent]) {
    for content in contents {
        if content.proration && content.amount < 0 {
            content.credited = last_charged(state, content);
        }
    }
}

fn last_charged(state: &State, credit: &LineContent) -> Option<CreditedLines> {
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
        (!lines.is_empty()).then(|| CreditedLines {
            invoice: invoice.id.clone(),
            lines,
        })
    })
}
