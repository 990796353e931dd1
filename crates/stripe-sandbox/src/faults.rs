//! Faults on request: what a client must survive, made to happen.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::state::State;
use crate::test_cards::{self, Decline};

/// Control routes.
pub const ROUTES: &[Route] = &[
    post("/_sandbox/faults", create),
    get("/_sandbox/faults", list),
    delete("/_sandbox/faults", clear),
];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 429 with `Retry-After`; nothing is done.
    RateLimit,
    /// 409 `lock_timeout`; nothing is done.
    LockTimeout,
    /// 500; nothing is done.
    ServerError,
    /// 500, after the request was carried out.
    ServerErrorAfterActing,
    /// The connection breaks; nothing is done.
    Drop,
    /// The connection breaks, after the request was carried out.
    DropAfterActing,
    /// No answer comes, though the request was carried out.
    Timeout,
    /// The next charge is declined.
    Decline(Decline),
}

const KINDS: [&str; 8] = [
    "rate_limit",
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
    "decline",
];

/// A fault and the requests it strikes.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: Kind,
    name: &'static str,
    method: Option<String>,
    path: Option<String>,
    /// Strikes every so many matching requests; 1 strikes each.
    every: u32,
    /// Strikes left; none means without end.
    left: Option<u32>,
    seen: u32,
    struck: u32,
    /// Seconds for `Retry-After`.
    retry_after_secs: u32,
}

impl Fault {
    fn matches(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self
                .path
                .as_deref()
                .is_none_or(|pattern| matches_pattern(pattern, path))
    }

    /// Counts a matching request, and tells whether the fault strikes it.
    fn strikes(&mut self) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.seen += 1;
        if !self.seen.is_multiple_of(self.every) {
            return false;
        }
        self.struck += 1;
        self.left = self.left.map(|left| left - 1);
        true
    }

    fn render(&self) -> Value {
        json!({
            "fault": self.name,
            "method": self.method,
            "path": self.path,
            "every": self.every,
            "left": self.left,
            "seen": self.seen,
            "struck": self.struck,
            "retry_after": self.retry_after_secs,
        })
    }
}

/// `*` stands for any run of characters.
fn matches_pattern(pattern: &str, path: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let Some(rest) = path.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter(|at| rest.is_char_boundary(*at))
        .any(|at| matches_pattern(tail, &rest[at..]))
}

/// The fault that strikes this request, with its `Retry-After`.
pub fn strike(state: &mut State, method: &str, path: &str) -> Option<(Kind, u32)> {
    state
        .faults
        .iter_mut()
        .filter(|fault| !matches!(fault.kind, Kind::Decline(_)) && fault.matches(method, path))
        .find_map(|fault| {
            fault
                .strikes()
                .then_some((fault.kind, fault.retry_after_secs))
        })
}

/// The decline that strikes the charge about to be made.
pub fn take_decline(state: &mut State) -> Option<Decline> {
    state.faults.iter_mut().find_map(|fault| {
        let Kind::Decline(decline) = fault.kind else {
            return None;
        };
        fault.strikes().then_some(decline)
    })
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let name = params
        .choice("fault", &KINDS)?
        .ok_or_else(|| ApiError::missing_param("fault"))?;
    let decline_code = params.text("decline_code")?;
    let method = params
        .choice("method", &["GET", "POST", "DELETE"])?
        .map(str::to_owned);
    let path = params.text("path")?;
    let next = take_u32(&mut params, "next")?;
    let every = take_u32(&mut params, "every")?;
    let retry_after_secs = take_u32(&mut params, "retry_after")?.unwrap_or(1);
    params.finish()?;
    if every == Some(0) || next == Some(0) {
        return Err(ApiError::bad_param(
            "every",
            "`next` and `every` count from 1.",
        ));
    }
    let kind = match name {
        "rate_limit" => Kind::RateLimit,
        "lock_timeout" => Kind::LockTimeout,
        "server_error" => Kind::ServerError,
        "server_error_after_acting" => Kind::ServerErrorAfterActing,
        "drop" => Kind::Drop,
        "drop_after_acting" => Kind::DropAfterActing,
        "timeout" => Kind::Timeout,
        _ => {
            let code = decline_code.as_deref().unwrap_or("generic_decline");
            let decline = test_cards::decline_named(code).ok_or_else(|| {
                ApiError::bad_param("decline_code", format!("Unknown decline code: {code}"))
            })?;
            Kind::Decline(decline)
        }
    };
    // Without either, the very next matching request is struck, once.
    let left = next.or(if every.is_none() { Some(1) } else { None });
    let fault = Fault {
        kind,
        name,
        method,
        path,
        every: every.unwrap_or(1),
        left,
        seen: 0,
        struck: 0,
        retry_after_secs,
    };
    let answer = fault.render();
    call.state.faults.push(fault);
    Ok(answer)
}

fn take_u32(params: &mut crate::params::Params, name: &str) -> Result<Option<u32>, ApiError> {
    params
        .count(name)?
        .map(|value| {
            u32::try_from(value).map_err(|_| ApiError::bad_param(name, "This number is too large."))
        })
        .transpose()
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let data: Vec<Value> = call.state.faults.iter().map(Fault::render).collect();
    Ok(json!({ "data": data }))
}

fn clear(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    call.state.faults.clear();
    Ok(json!({ "data": [] }))
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn patterns_match_whole_paths() {
        assert!(matches_pattern(
            "/v1/invoices/*/pay",
            "/v1/invoices/in_1/pay"
        ));
        assert!(matches_pattern("/v1/*", "/v1/customers"));
        assert!(!matches_pattern("/v1/customers", "/v1/customers/cus_1"));
        assert!(!matches_pattern(
            "/v1/invoices/*/pay",
            "/v1/invoices/in_1/void"
        ));
    }
}
