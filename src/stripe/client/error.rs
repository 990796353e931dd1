//! Errors of calls, by what the caller can do about them.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

const KEY_IN_USE: &str = "idempotency_key_in_use";

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The card was refused: `card_declined`, `expired_card` and so on.
    Card,
    /// The cardholder must confirm the payment first.
    AuthenticationRequired,
    /// The secret key is not accepted.
    Authentication,
    /// The key may not do this.
    Permission,
    RateLimited,
    /// There is no such object, or not in this mode.
    NotFound,
    InvalidRequest,
    /// The idempotency key was used with other parameters.
    Idempotency,
    /// Another request is using the object or the key.
    Conflict,
    /// Stripe failed, and may have made the change before; it works on it no more.
    Server,
    /// No connection: Stripe has not seen the request.
    Unreachable,
    /// No response: Stripe may have made the change.
    Unanswered,
    /// A response that is not Stripe's.
    Unreadable,
}

/// An error from Stripe or on the way to it. It contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Stripe, {}: {}{}", self.call, self.message, self.details())]
pub struct StripeError(Box<ErrorDetails>);

/// The details of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorDetails {
    pub kind: ErrorKind,
    /// The call that failed.
    pub call: &'static str,
    pub message: String,
    pub code: Option<String>,
    /// The issuer's reason, such as `insufficient_funds`.
    pub decline_code: Option<String>,
    /// The parameter that is wrong.
    pub param: Option<String>,
    pub request_id: Option<String>,
}

impl std::ops::Deref for StripeError {
    type Target = ErrorDetails;

    fn deref(&self) -> &ErrorDetails {
        &self.0
    }
}

impl StripeError {
    pub(super) fn new(kind: ErrorKind, call: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorDetails {
            kind,
            call,
            message: message.into(),
            code: None,
            decline_code: None,
            param: None,
            request_id: None,
        }))
    }

    /// What an intent's `last_payment_error` says of a payment that was declined. `None` if
    /// its cardholder only has to confirm it.
    pub fn of_declined(last_payment_error: &Value) -> Option<Self> {
        let text = |name: &str| last_payment_error[name].as_str().map(str::to_owned);
        let (code, decline_code) = (text("code")?, text("decline_code"));
        let confirms = [
            "authentication_required",
            "payment_intent_authentication_failure",
        ];
        if confirms.contains(&&*code) || decline_code.as_deref() == Some(confirms[0]) {
            return None;
        }
        let message = text("message").unwrap_or_else(|| "the card was declined".to_owned());
        let mut error = Self::new(ErrorKind::Card, "payment_intents.retrieve", message);
        (error.0.code, error.0.decline_code) = (Some(code), decline_code);
        Some(error)
    }

    pub(super) fn of_request(mut self, request_id: Option<String>) -> Self {
        self.0.request_id = request_id;
        self
    }

    /// Whether Stripe may have made the change without confirming it. The call must
    /// then be repeated with the same key.
    pub fn may_have_acted(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Server | ErrorKind::Unanswered | ErrorKind::Unreadable | ErrorKind::Conflict
        )
    }

    /// The error of a call that only reads, once another one has changed something:
    /// whatever became of this one, Stripe has acted.
    #[must_use]
    pub fn after_acting(mut self) -> Self {
        self.0.kind = ErrorKind::Unanswered;
        self
    }

    /// Whether Stripe may still be making the change.
    pub(super) fn may_be_acting(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unanswered | ErrorKind::Unreadable | ErrorKind::Conflict
        )
    }

    /// Whether it says what became of a call whose earlier attempts, with the same key,
    /// were not answered: Stripe has looked at the parameters, and gives the first
    /// response again. Others are refused before.
    pub fn settles(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Card
                | ErrorKind::AuthenticationRequired
                | ErrorKind::NotFound
                | ErrorKind::InvalidRequest
        )
    }

    /// Whether Stripe is unavailable at the moment, for any call.
    pub fn is_outage(&self) -> bool {
        self.may_have_acted()
            || matches!(self.kind, ErrorKind::Unreachable | ErrorKind::RateLimited)
    }

    /// Whether another attempt with the same idempotency key is under way.
    pub fn is_key_in_use(&self) -> bool {
        self.code.as_deref() == Some(KEY_IN_USE)
    }

    /// Whether the call's customer does not exist.
    pub fn is_missing_customer(&self) -> bool {
        self.kind == ErrorKind::NotFound
            && (self.param.as_deref() == Some("customer")
                || self.message.starts_with("No such customer"))
    }

    /// Whether there is nothing to be charged: no default, and none of the
    /// subscription's own.
    pub fn lacks_payment_method(&self) -> bool {
        let words = "no attached payment source or default payment method";
        self.message.contains(words)
    }

    fn details(&self) -> String {
        let named = [
            ("code", &self.code),
            ("decline code", &self.decline_code),
            ("parameter", &self.param),
            ("request", &self.request_id),
        ];
        let known: Vec<String> = named
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
            .collect();
        if known.is_empty() {
            String::new()
        } else {
            format!(" ({})", known.join(", "))
        }
    }
}

#[derive(Deserialize)]
struct Body {
    error: Details,
}

#[derive(Deserialize)]
struct Details {
    r#type: Option<String>,
    code: Option<String>,
    decline_code: Option<String>,
    param: Option<String>,
    message: Option<String>,
}

/// Reads an unsuccessful response.
pub(super) fn read(
    call: &'static str,
    status: StatusCode,
    body: &[u8],
    request_id: Option<String>,
) -> StripeError {
    let Ok(Body { error }) = serde_json::from_slice::<Body>(body) else {
        let kind = match status.as_u16() {
            429 => ErrorKind::RateLimited,
            // A proxy's: Stripe may still be working on the request.
            500.. => ErrorKind::Unanswered,
            _ => ErrorKind::Unreadable,
        };
        let message = format!("status {status}, without Stripe's error");
        return StripeError::new(kind, call, message).of_request(request_id);
    };
    StripeError(Box::new(ErrorDetails {
        kind: kind(status, &error),
        call,
        message: error
            .message
            .unwrap_or_else(|| format!("status {status}, without a message")),
        code: error.code,
        decline_code: error.decline_code,
        param: error.param,
        request_id,
    }))
}

fn kind(status: StatusCode, error: &Details) -> ErrorKind {
    let code = error.code.as_deref().unwrap_or_default();
    let needs_cardholder = matches!(
        code,
        "authentication_required" | "subscription_payment_intent_requires_action"
    ) || error.decline_code.as_deref() == Some("authentication_required");
    match (error.r#type.as_deref(), status.as_u16()) {
        (_, 401) => ErrorKind::Authentication,
        (_, 403) => ErrorKind::Permission,
        (_, 429) => ErrorKind::RateLimited,
        (Some("card_error"), _) | (_, 402) if needs_cardholder => ErrorKind::AuthenticationRequired,
        (Some("card_error"), _) | (_, 402) => ErrorKind::Card,
        // An attempt with the same key is under way, whatever the type says.
        (_, 409) => ErrorKind::Conflict,
        _ if code == KEY_IN_USE => ErrorKind::Conflict,
        (Some("idempotency_error"), _) => ErrorKind::Idempotency,
        // Gateways give up while what is behind them works on.
        (_, 502 | 504) => ErrorKind::Unanswered,
        (_, 500..) => ErrorKind::Server,
        (_, 404) => ErrorKind::NotFound,
        _ if code == "resource_missing" => ErrorKind::NotFound,
        _ => ErrorKind::InvalidRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_kind(status: u16, body: &str) -> ErrorKind {
        let status = StatusCode::from_u16(status).unwrap();
        read("test", status, body.as_bytes(), None).kind
    }

    #[test]
    fn errors_are_classified() {
        let declined = r#"{"error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds","message":"Your card was declined."}}"#;
        assert_eq!(read_kind(402, declined), ErrorKind::Card);
        let confirm = r#"{"error":{"type":"card_error","code":"authentication_required"}}"#;
        assert_eq!(read_kind(402, confirm), ErrorKind::AuthenticationRequired);
        let invalid = r#"{"error":{"type":"invalid_request_error"}}"#;
        for (status, kind) in [
            (400, ErrorKind::InvalidRequest),
            (401, ErrorKind::Authentication),
            (403, ErrorKind::Permission),
            (404, ErrorKind::NotFound),
            (409, ErrorKind::Conflict),
            (429, ErrorKind::RateLimited),
            (500, ErrorKind::Server),
        ] {
            assert_eq!(read_kind(status, invalid), kind, "{status}");
        }
        let idempotency = r#"{"error":{"type":"idempotency_error"}}"#;
        assert_eq!(read_kind(400, idempotency), ErrorKind::Idempotency);
        let in_use = r#"{"error":{"type":"idempotency_error","code":"idempotency_key_in_use"}}"#;
        assert_eq!(read_kind(409, in_use), ErrorKind::Conflict);
        assert_eq!(read_kind(400, in_use), ErrorKind::Conflict);
        for status in [500, 502, 503, 504] {
            assert_eq!(read_kind(status, "<html>"), ErrorKind::Unanswered);
        }
        assert_eq!(read_kind(504, invalid), ErrorKind::Unanswered);
        assert_eq!(read_kind(302, ""), ErrorKind::Unreadable);
    }

    #[test]
    fn an_error_repeats_stripes_message_and_codes() {
        let body = br#"{"error":{"type":"card_error","code":"card_declined","decline_code":"lost_card","message":"No."}}"#;
        let error = read(
            "customers.create",
            StatusCode::PAYMENT_REQUIRED,
            body,
            Some("req_1".into()),
        );
        assert_eq!(
            error.to_string(),
            "Stripe, customers.create: No. (code card_declined, decline code lost_card, request req_1)"
        );
    }
}
