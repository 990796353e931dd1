//! Has the projection apply what Stripe showed, a page in one transaction.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Work;
use super::scan::customer_of;
use crate::db;
use crate::stripe::client::Response;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::snapshot;
use crate::subscriptions::reconcile::Answer;

/// The event that tells of an invoice's payment, which comes with the invoice.
pub const PAYMENT: &str = "invoice_payment.paid";

/// An object, and the event that would tell of it.
#[derive(Debug)]
pub struct Shown {
    event_type: &'static str,
    object: Value,
}

impl Shown {
    pub fn of(event_type: &'static str, object: Value) -> Self {
        Self { event_type, object }
    }
}

/// The answer about one.
struct Answered {
    customer: String,
    id: String,
    /// Whether it is an object of the list.
    counts: bool,
    answer: Answer,
}

impl Work<'_> {
    /// Applies objects as they were at `at`; returns how many were newer than what is here.
    pub(super) async fn apply(
        &mut self,
        at: Option<Timestamp>,
        shown: Vec<Shown>,
    ) -> Result<usize, Failure> {
        let mut answers = Vec::with_capacity(shown.len());
        for Shown { event_type, object } in shown {
            let customer = customer_of(&object).unwrap_or_default().to_owned();
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            let response = Response {
                body: object,
                request_id: None,
                date: at,
            };
            match snapshot(self.client, Uuid::now_v7(), response).await {
                Ok(shown) => {
                    let answer = Answer::of(event_type, shown, json!({}));
                    answers.push(Answered {
                        customer,
                        id,
                        counts: event_type != PAYMENT,
                        answer,
                    });
                }
                Err(error) => self.failed(&customer, &id, Failure::Stripe(error))?,
            }
        }
        let all: Vec<&Answer> = answers.iter().map(|one| &one.answer).collect();
        match self.subscriptions.apply_answers(&all).await {
            Ok(results) => self.counted(&answers, results),
            // What the database does not take spoils its transaction: each on its own.
            Err(error) if !db::is_outage(&error) => {
                let mut results = Vec::with_capacity(all.len());
                for answer in all {
                    let applied = self.subscriptions.apply_answers(&[answer]).await;
                    results.push(match applied {
                        Ok(mut one) => one.pop().unwrap_or(Ok(false)),
                        Err(error) if db::is_outage(&error) => return Err(error.into()),
                        Err(error) => Err(error.to_string()),
                    });
                }
                self.counted(&answers, results)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn counted(
        &mut self,
        answers: &[Answered],
        results: Vec<Result<bool, String>>,
    ) -> Result<usize, Failure> {
        let mut written = 0;
        for (one, result) in answers.iter().zip(results) {
            match result {
                Ok(newer) => written += usize::from(newer && one.counts),
                Err(problem) => self.find_failed(&one.customer, format!("{}: {problem}", one.id)),
            }
        }
        Ok(written)
    }
}
