//! Sends events to webhook endpoints: at least once, in no particular order,
//! with retries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::server::SharedState;
use crate::webhooks::delivery::{self, Delivery, Outcome, PreparedDelivery};
use crate::webhooks::signature;

type Http = Client<HttpConnector, Body>;

/// Sends the deliveries in the outbox, until the task is aborted.
pub async fn run(shared: Arc<SharedState>) {
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    loop {
        let deliveries = {
            let mut state = shared.lock();
            let deliveries = std::mem::take(&mut state.outbox);
            shared
                .in_flight
                .fetch_add(deliveries.len(), Ordering::SeqCst);
            deliveries
        };
        for delivery in deliveries {
            tokio::spawn(deliver(Arc::clone(&shared), http.clone(), delivery));
        }
        shared.outbox_filled.notified().await;
    }
}

async fn deliver(shared: Arc<SharedState>, http: Http, delivery: Delivery) {
    let outcome = send_with_retries(&shared, &http, &delivery).await;
    delivery::record_outcome(&mut shared.lock(), &delivery, outcome);
    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    shared.delivery_ended.notify_waiters();
}

async fn send_with_retries(shared: &SharedState, http: &Http, delivery: &Delivery) -> Outcome {
    let (delays, timeout) = {
        let state = shared.lock();
        (
            state.config.webhook_retry_delays.clone(),
            state.config.webhook_timeout,
        )
    };
    let mut delays = delays.into_iter();
    loop {
        let Some(prepared) = delivery::prepare(&shared.lock(), delivery) else {
            return Outcome::Abandoned;
        };
        let accepted = tokio::time::timeout(timeout, send(http, prepared)).await;
        if matches!(accepted, Ok(true)) {
            return Outcome::Delivered;
        }
        match delays.next() {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Outcome::Abandoned,
        }
    }
}

/// Returns whether the endpoint responded with 2xx.
async fn send(http: &Http, prepared: PreparedDelivery) -> bool {
    // Sign with the real time, since receivers compare it with their own clock.
    let now_secs = jiff::Timestamp::now().as_second();
    let request = Request::post(&prepared.url)
        .header("content-type", "application/json; charset=utf-8")
        .header(
            "user-agent",
            "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        )
        .header(
            "stripe-signature",
            signature::header(&prepared.secret, now_secs, &prepared.body),
        )
        .body(Body::from(prepared.body));
    match request {
        Ok(request) => http
            .request(request)
            .await
            .is_ok_and(|response| response.status().is_success()),
        Err(_) => false,
    }
}
