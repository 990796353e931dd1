//! Sends a call, and retries it where that may help.

use std::time::{Duration, Instant};

use billing_domain::retry::Backoff;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};

use super::error::{self, ErrorKind, StripeError};
use super::{API_VERSION, Call, Client, Response};
use crate::telemetry::metrics;

/// The longest pause, even if Stripe asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A failed attempt, with Stripe's advice about a retry.
struct Failed {
    error: StripeError,
    /// `Stripe-Should-Retry`.
    should_retry: Option<bool>,
    retry_after: Option<Duration>,
}

/// Sends a call until it succeeds, fails for good, or exhausts the client's
/// patience. All attempts have the same idempotency key.
pub(super) async fn send(
    client: &Client,
    method: Method,
    call: Call<'_>,
    key: Option<&str>,
) -> Result<Response, StripeError> {
    let started = Instant::now();
    let mut attempts = 0;
    // Once an attempt may have had an effect, or may yet have one, that is what became of
    // the call, unless a later attempt says otherwise.
    let mut uncertain: Option<StripeError> = None;
    let result = loop {
        attempts += 1;
        if let Some(pace) = &client.pace {
            pace.wait().await;
        }
        // What waits for a call has no room for it: few futures ever make one.
        let failed = match Box::pin(attempt(client, &method, call, key)).await {
            Ok(response) => break Ok(response),
            Err(failed) => failed,
        };
        let pause = pause(client, attempts, failed.retry_after);
        let again = failed.may_help()
            && attempts < client.patience.attempts
            && started.elapsed() + pause < client.patience.total;
        let error = failed.error;
        if let (Some(pace), ErrorKind::RateLimited) = (&client.pace, error.kind) {
            pace.hold(pause);
        }
        tracing::warn!(
            call = call.name,
            attempts,
            request_id = error.request_id,
            again,
            "A call to Stripe failed: {}",
            error.message
        );
        if !again {
            break Err(what_became(uncertain, error));
        }
        // One that may still be under way outlasts one that is over.
        if error.may_be_acting() || error.may_have_acted() && uncertain.is_none() {
            uncertain = Some(error);
        }
        tokio::time::sleep(pause).await;
    };
    metrics::stripe_call(call.name, outcome(&result), started.elapsed());
    result
}

/// The error of a call whose last attempt failed with `last`, and an earlier one without
/// saying what it did.
fn what_became(uncertain: Option<StripeError>, last: StripeError) -> StripeError {
    match uncertain {
        Some(earlier) if earlier.may_be_acting() && !last.settles() => earlier,
        Some(earlier) if !last.may_have_acted() && !last.settles() => earlier,
        _ => last,
    }
}

fn outcome(result: &Result<Response, StripeError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => match error.kind {
            ErrorKind::Card | ErrorKind::AuthenticationRequired => "declined",
            ErrorKind::Authentication | ErrorKind::Permission => "unauthorized",
            ErrorKind::RateLimited => "rate_limited",
            ErrorKind::NotFound | ErrorKind::InvalidRequest | ErrorKind::Idempotency => "invalid",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Server | ErrorKind::Unreadable => "failed",
            ErrorKind::Unreachable | ErrorKind::Unanswered => "unreachable",
        },
    }
}

impl Failed {
    fn may_help(&self) -> bool {
        // An unreadable response was not sent by Stripe.
        self.should_retry.unwrap_or(matches!(
            self.error.kind,
            ErrorKind::RateLimited
                | ErrorKind::Conflict
                | ErrorKind::Server
                | ErrorKind::Unreachable
                | ErrorKind::Unanswered
        ))
    }
}

/// No shorter than Stripe asks for, unless that is too long.
fn pause(client: &Client, attempts: u32, asked: Option<Duration>) -> Duration {
    let backoff = Backoff {
        first: client.patience.pause,
        longest: MAX_PAUSE,
    };
    let pause = backoff.jittered(attempts.saturating_sub(1), rand::random());
    pause.max(asked.unwrap_or_default()).min(MAX_PAUSE)
}

async fn attempt(
    client: &Client,
    method: &Method,
    call: Call<'_>,
    key: Option<&str>,
) -> Result<Response, Failed> {
    let mut url = client.base.clone();
    url.set_path(&format!(
        "{}{}",
        url.path().trim_end_matches('/'),
        call.path
    ));
    let mut request = client
        .http
        .request(method.clone(), url)
        .timeout(client.patience.attempt)
        .bearer_auth(client.key.expose())
        .header("Stripe-Version", API_VERSION);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request = if *method == Method::POST {
        request.form(call.params.pairs())
    } else {
        request.query(call.params.pairs())
    };
    let no_response = |error: &reqwest::Error| {
        let (kind, message) = if error.is_connect() {
            (ErrorKind::Unreachable, "cannot be reached")
        } else if error.is_timeout() {
            (ErrorKind::Unanswered, "no response in time")
        } else {
            (
                ErrorKind::Unanswered,
                "the connection broke before a response",
            )
        };
        Failed {
            error: StripeError::new(kind, call.name, message),
            should_retry: None,
            retry_after: None,
        }
    };
    let response = request.send().await.map_err(|error| no_response(&error))?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = response
        .bytes()
        .await
        .map_err(|error| no_response(&error))?;
    read(call.name, status, &headers, &body)
}

fn read(
    call: &'static str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Failed> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let request_id = text("request-id").map(str::to_owned);
    if !status.is_success() {
        let seconds = text(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        return Err(Failed {
            error: error::read(call, status, body, request_id),
            should_retry: text("stripe-should-retry").and_then(|text| text.parse().ok()),
            retry_after: seconds.map(Duration::from_secs),
        });
    }
    match serde_json::from_slice(body) {
        Ok(body) => Ok(Response {
            body,
            request_id,
            date: text("date").and_then(date),
        }),
        Err(_) => Err(Failed {
            error: StripeError::new(ErrorKind::Unreadable, call, "the response is not JSON")
                .of_request(request_id),
            should_retry: None,
            retry_after: None,
        }),
    }
}

fn date(text: &str) -> Option<Timestamp> {
    // HTTP's GMT is RFC 2822's obsolete zone.
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_be_under_way_is_not_called_done_or_failed() {
        use ErrorKind::{
            Authentication, Card, Conflict, Idempotency, InvalidRequest, Permission, RateLimited,
            Server, Unanswered, Unreachable, Unreadable,
        };
        let error = |kind| StripeError::new(kind, "test", "");
        let became = |earlier, last| what_became(Some(error(earlier)), error(last)).kind;
        for earlier in [Unanswered, Unreadable, Conflict] {
            for last in [
                Server,
                Conflict,
                RateLimited,
                Authentication,
                Permission,
                Idempotency,
                Unreachable,
            ] {
                assert_eq!(became(earlier, last), earlier, "{last:?}");
            }
            for last in [Card, InvalidRequest] {
                assert_eq!(became(earlier, last), last);
            }
        }
        assert_eq!(became(Server, Unreachable), Server);
        assert_eq!(became(Server, RateLimited), Server);
        assert_eq!(became(Server, Authentication), Server);
        assert_eq!(became(Server, Server), Server);
        assert_eq!(became(Server, Unanswered), Unanswered);
        assert_eq!(became(Server, Card), Card);
        assert_eq!(what_became(None, error(Card)).kind, Card);
    }
}
