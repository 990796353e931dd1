//! Errors in Stripe's format.

use serde_json::{Map, Value, json};

/// An error response: the status and the fields of Stripe's error object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind} ({status}): {message}")]
pub struct ApiError {
    pub status: u16,
    /// Stripe's `type`.
    pub kind: &'static str,
    /// Stripe's `code`.
    pub code: Option<&'static str>,
    /// Why the issuer declined.
    pub decline_code: Option<&'static str>,
    /// The parameter that caused the error.
    pub param: Option<String>,
    /// A message for people.
    pub message: String,
    /// The objects that Stripe adds to card errors, such as the charge.
    pub details: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    /// An `invalid_request_error` with status 400.
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

    /// An invalid value of a parameter.
    #[must_use]
    pub fn bad_param(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(message).param(param)
    }

    /// A parameter that the API does not have. No parameter is silently
    /// ignored.
    #[must_use]
    pub fn unknown_param(param: &str) -> Self {
        Self::bad_param(param, format!("Received unknown parameter: {param}"))
            .code("parameter_unknown")
    }

    /// Something that Stripe supports and the sandbox does not.
    #[must_use]
    pub fn unsupported(param: &str, what: &str) -> Self {
        Self::bad_param(
            param,
            format!("This Stripe stand-in does not support {what}."),
        )
        .code("sandbox_unsupported")
    }

    /// A required parameter that is missing.
    #[must_use]
    pub fn missing_param(param: &str) -> Self {
        Self::bad_param(param, format!("Missing required param: {param}."))
            .code("parameter_missing")
    }

    /// An unknown id: 404 if it is in the path, 400 if in a parameter.
    #[must_use]
    pub fn no_such(object: &str, id: &str, param: &str) -> Self {
        let mut error =
            Self::bad_param(param, format!("No such {object}: '{id}'")).code("resource_missing");
        if param == "id" {
            error.status = 404;
        }
        error
    }

    /// A `card_error` with status 402.
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

    /// An error with another status and type.
    #[must_use]
    pub fn other(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            ..Self::invalid(message)
        }
    }

    /// Sets the code.
    #[must_use]
    pub const fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Sets the parameter.
    #[must_use]
    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The JSON body. Like Stripe's, it contains only the fields that are set.
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
