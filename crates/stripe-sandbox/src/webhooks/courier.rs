//! Carries events to endpoints: at least once, in no order, with retries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::server::Shell;
use crate::webhooks::delivery::{self, Delivery, Outcome, Parcel};
use crate::webhooks::signature;

type Http = Client<HttpConnector, Body>;

/// Takes deliveries from the outbox for as long as the sandbox lives.
pub async fn run(shell: Arc<Shell>) {
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    loop {
        let deliveries = {
            let mut state = shell.lock();
            let deliveries = std::mem::take(&mut state.outbox);
            shell
                .in_flight
                .fetch_add(deliveries.len(), Ordering::SeqCst);
            deliveries
        };
        for delivery in deliveries {
            tokio::spawn(deliver(Arc::clone(&shell), http.clone(), delivery));
        }
        shell.outbox_filled.notified().await;
    }
}

async fn deliver(shell: Arc<Shell>, http: Http, delivery: Delivery) {
    let outcome = attempts(&shell, &http, &delivery).await;
    delivery::note(&mut shell.lock(), &delivery, outcome);
    shell.in_flight.fetch_sub(1, Ordering::SeqCst);
    shell.settled.notify_waiters();
}

async fn attempts(shell: &Shell, http: &Http, delivery: &Delivery) -> Outcome {
    let (delays, timeout) = {
        let state = shell.lock();
        (
            state.config.webhook_retry_delays.clone(),
            state.config.webhook_timeout,
        )
    };
    let mut pauses = delays.into_iter();
    loop {
        let Some(parcel) = delivery::pack(&shell.lock(), delivery) else {
            return Outcome::GivenUp;
        };
        let accepted = tokio::time::timeout(timeout, send(http, parcel)).await;
        if matches!(accepted, Ok(true)) {
            return Outcome::Delivered;
        }
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Outcome::GivenUp,
        }
    }
}

/// Whether the endpoint answered 2xx; anything else is a failure.
async fn send(http: &Http, parcel: Parcel) -> bool {
    // Receivers compare the time with their own clock, so it is the real one,
    // whatever time the event tells of.
    let now_secs = jiff::Timestamp::now().as_second();
    let request = Request::post(&parcel.url)
        .header("content-type", "application/json; charset=utf-8")
        .header(
            "user-agent",
            "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        )
        .header(
            "stripe-signature",
            signature::header(&parcel.secret, now_secs, &parcel.body),
        )
        .body(Body::from(parcel.body));
    match request {
        Ok(request) => http
            .request(request)
            .await
            .is_ok_and(|response| response.status().is_success()),
        Err(_) => false,
    }
}
