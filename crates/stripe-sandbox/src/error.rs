//! Errors in Stripe's shape.

use serde_json::{Map, Value, json};

/// An answer that is not 2xx: status, and the fields of Stripe's error object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind} ({status}): {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Stripe's `type`.
    pub kind: &'static str,
    /// Stripe's `code`.
    pub code: Option<&'static str>,
    /// Why the issuer declined.
    pub decline_code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// A sentence for people.
    pub message: String,
    /// Objects that Stripe adds to card errors: the charge, payment intent.
    pub details: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    /// `invalid_request_error`, 400.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: None,
            decline_code: None,
            param: None,
            message: message.into(),
            details: None,
        }
    }

    /// A bad value of one parameter.
    #[must_use]
    pub fn bad_param(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(message).param(param)
    }

    /// A parameter this API does not have. Nothing is ever ignored silently.
    #[must_use]
    pub fn unknown_param(param: &str) -> Self {
        Self::bad_param(param, format!("Received unknown parameter: {param}"))
            .code("parameter_unknown")
    }

    /// A value that Stripe knows and this stand-in does not.
    #[must_use]
    pub fn unsupported(param: &str, what: &str) -> Self {
        Self::bad_param(
            param,
            format!("This Stripe stand-in does not support {what}."),
        )
        .code("sandbox_unsupported")
    }

    /// A parameter that must be there.
    #[must_use]
    pub fn missing_param(param: &str) -> Self {
        Self::bad_param(param, format!("Missing required param: {param}."))
            .code("parameter_missing")
    }

    /// An id that resolves to nothing; 404 in the path, 400 in a parameter.
    #[must_use]
    pub fn no_such(object: &str, id: &str, param: &str) -> Self {
        let mut error =
            Self::bad_param(param, format!("No such {object}: '{id}'")).code("resource_missing");
        if param == "id" {
            error.status = 404;
        }
        error
    }

    /// `card_error`, 402.
    #[must_use]
    pub fn card(
        code: &'static str,
        decline_code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status: 402,
            kind: "card_error",
            code: Some(code),
            decline_code,
            ..Self::invalid(message)
        }
    }

    /// Any other status and type.
    #[must_use]
    pub fn other(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            ..Self::invalid(message)
        }
    }

    /// Adds the code.
    #[must_use]
    pub const fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds the parameter.
    #[must_use]
    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The JSON body; only what is set is there, as with Stripe.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Value {
        let mut error = self.details.as_deref().cloned().unwrap_or_default();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                error.insert(key.to_owned(), json!(value));
            }
        };
        set("type", Some(self.kind.to_owned()));
        set("message", Some(self.message.clone()));
        set("code", self.code.map(str::to_owned));
        set("decline_code", self.decline_code.map(str::to_owned));
        set("param", self.param.clone());
        set(
            "doc_url",
            self.code.as_ref().map(|code| {
                format!(
                    "https://stripe.com/docs/error-codes/{}",
                    code.replace('_', "-")
                )
            }),
        );
        set(
            "request_log_url",
            Some(format!(
                "https://dashboard.stripe.com/test/logs/{request_id}"
            )),
        );
        json!({ "error": error })
    }
}
