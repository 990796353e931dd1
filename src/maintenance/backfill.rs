//! `webhooks backfill`: stores events from Stripe's own list in the same way as
//! deliveries, so that those already delivered are duplicates.

use axum::body::Bytes;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use crate::stripe::client::{Client, Params, StripeError, StripeEvent};
use crate::stripe::event::Envelope;
use crate::webhooks::intake::{self, Intake, IntakeError, Receipt, Source};

/// How long Stripe keeps events.
pub const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backfilled {
    /// Events that Stripe listed.
    pub read: u64,
    pub stored: u64,
    /// Events that were already stored.
    pub duplicates: u64,
    /// Events with a malformed envelope, or that PostgreSQL refuses; they are logged.
    pub unreadable: u64,
    /// The last event of the last page, after which an interrupted run can resume.
    pub last_event_id: Option<String>,
    /// When that was created.
    pub reached: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error(transparent)]
    Inbox(#[from] IntakeError),
}

/// Reads events that Stripe created at or after `since`, newest first, and
/// stores each page before it asks for the next. Calls `progress` after each page, so
/// that it knows all that was stored when an error ends the run.
pub async fn run(
    client: &Client,
    database: PgConnectOptions,
    since: Timestamp,
    after: Option<String>,
    mut progress: impl FnMut(&Backfilled),
) -> Result<Backfilled, BackfillError> {
    let (intake, writer) = intake::new(database, Source::Backfill, |_| {});
    let writer = tokio::spawn(writer.run());
    let mut done = Backfilled {
        last_event_id: after,
        ..Backfilled::default()
    };
    let result = read_pages(client, &intake, since, &mut done, &mut progress).await;
    drop(intake);
    // It ends once everything is written.
    let _ = writer.await;
    result.map(|()| done)
}

async fn read_pages(
    client: &Client,
    intake: &Intake,
    since: Timestamp,
    done: &mut Backfilled,
    progress: &mut impl FnMut(&Backfilled),
) -> Result<(), BackfillError> {
    loop {
        let params = Params::new()
            .set("created[gte]", since.as_second())
            .set_if("starting_after", done.last_event_id.as_deref());
        let page = client.events(params).await?;
        for receipt in join_all(page.data.iter().map(|event| store(intake, event))).await {
            done.read += 1;
            match receipt? {
                Some(Receipt::Stored) => done.stored += 1,
                Some(Receipt::Duplicate) => done.duplicates += 1,
                None => done.unreadable += 1,
            }
        }
        if let Some(StripeEvent(last)) = page.data.last() {
            done.last_event_id = last["id"].as_str().map(str::to_owned);
            let created = last["created"].as_i64().map(Timestamp::from_second);
            done.reached = created.and_then(Result::ok);
        }
        progress(done);
        if !page.has_more || page.data.is_empty() {
            return Ok(());
        }
    }
}

async fn store(
    intake: &Intake,
    StripeEvent(event): &StripeEvent,
) -> Result<Option<Receipt>, IntakeError> {
    let body = Bytes::from(event.to_string());
    match Envelope::read(&body, Timestamp::now().as_second()) {
        Ok(envelope) => match intake.store(envelope, body).await {
            // It would end every run at this event.
            Err(error @ IntakeError::Payload(_)) => {
                let event_id = event["id"].as_str();
                tracing::warn!(event_id, %error, "An event from Stripe cannot be stored");
                Ok(None)
            }
            stored => stored.map(Some),
        },
        Err(error) => {
            let event_id = event["id"].as_str();
            tracing::warn!(event_id, %error, "Stripe lists a malformed event");
            Ok(None)
        }
    }
}
