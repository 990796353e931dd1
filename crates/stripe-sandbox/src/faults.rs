//! Fault injection: failures that a client must survive, on demand.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::meter_events;
use crate::state::State;
use crate::test_cards::{self, Decline};

pub const ROUTES: &[Route] = &[
    post("/_sandbox/faults", create),
    get("/_sandbox/faults", list),
    delete("/_sandbox/faults", clear),
];

/// The kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// 429 with `Retry-After`; the request has no effect.
    RateLimit,
    /// 409 `lock_timeout`; the request has no effect.
    LockTimeout,
    /// 500; the request has no effect.
    ServerError,
    /// 500, although the request took effect.
    ServerErrorAfterActing,
    /// The connection breaks; the request has no effect.
    Drop,
    /// The connection breaks, although the request took effect.
    DropAfterActing,
    /// No response is sent, although the request took effect.
    Timeout,
    /// The request takes effect after a while, and is then answered. Until then its
    /// idempotency key is in use.
    Slow,
    /// The same, but a gateway answers 504 at once.
    GatewayTimeout,
    /// The next charge is declined.
    Decline(Decline),
    /// The next meter event is accepted, and counted so many seconds later; `None`: when
    /// the faults are cleared.
    LateUsage { after_secs: Option<u32> },
}

impl FaultKind {
    /// Whether it strikes requests, and not what one of them does.
    const fn strikes_requests(self) -> bool {
        !matches!(self, Self::Decline(_) | Self::LateUsage { .. })
    }
}

const KINDS: [&str; 11] = [
    "rate_limit",
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
    "slow",
    "gateway_timeout",
    "decline",
    "late_usage",
];

/// A fault and the requests it applies to.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: FaultKind,
    name: &'static str,
    method: Option<String>,
    path: Option<String>,
    /// Applies to every n-th matching request.
    every: u32,
    /// How many more times it applies; `None` means until cleared.
    remaining: Option<u32>,
    matched: u32,
    applied: u32,
    /// The value of `Retry-After`.
    retry_after_secs: u32,
}

impl Fault {
    fn matches(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self
                .path
                .as_deref()
                .is_none_or(|pattern| path_matches(pattern, path))
    }

    /// Counts a matching request and returns whether the fault applies to it.
    fn count_match(&mut self) -> bool {
        if self.remaining == Some(0) {
            return false;
        }
        self.matched += 1;
        if !self.matched.is_multiple_of(self.every) {
            return false;
        }
        self.applied += 1;
        self.remaining = self.remaining.map(|remaining| remaining - 1);
        true
    }

    fn render(&self) -> Value {
        json!({
            "fault": self.name,
            "method": self.method,
            "path": self.path,
            "every": self.every,
            "left": self.remaining,
            "seen": self.matched,
            "struck": self.applied,
            "retry_after": self.retry_after_secs,
        })
    }
}

/// Whether the path matches; `*` stands for any run of characters.
fn path_matches(pattern: &str, path: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let Some(rest) = path.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter(|at| rest.is_char_boundary(*at))
        .any(|at| path_matches(tail, &rest[at..]))
}

/// The fault that applies to this request, with its `Retry-After`.
pub fn applying_to(state: &mut State, method: &str, path: &str) -> Option<(FaultKind, u32)> {
    state
        .faults
        .iter_mut()
        .filter(|fault| fault.kind.strikes_requests() && fault.matches(method, path))
        .find_map(|fault| {
            fault
                .count_match()
                .then_some((fault.kind, fault.retry_after_secs))
        })
}

/// The decline that applies to the next charge.
pub fn take_decline(state: &mut State) -> Option<Decline> {
    state.faults.iter_mut().find_map(|fault| {
        let FaultKind::Decline(decline) = fault.kind else {
            return None;
        };
        fault.count_match().then_some(decline)
    })
}

/// The second from which a meter event that is accepted now is counted.
pub fn take_counting(state: &mut State) -> i64 {
    let late = state.faults.iter_mut().find_map(|fault| {
        let FaultKind::LateUsage { after_secs } = fault.kind else {
            return None;
        };
        fault.count_match().then_some(after_secs)
    });
    match late {
        None => state.wall_secs,
        Some(Some(secs)) => state.wall_secs + i64::from(secs),
        Some(None) => i64::MAX,
    }
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
    let after_secs = take_u32(&mut params, "after")?;
    params.finish()?;
    if every == Some(0) || next == Some(0) {
        return Err(ApiError::bad_param(
            "every",
            "`next` and `every` must be at least 1.",
        ));
    }
    let kind = match name {
        "rate_limit" => FaultKind::RateLimit,
        "lock_timeout" => FaultKind::LockTimeout,
        "server_error" => FaultKind::ServerError,
        "server_error_after_acting" => FaultKind::ServerErrorAfterActing,
        "drop" => FaultKind::Drop,
        "drop_after_acting" => FaultKind::DropAfterActing,
        "timeout" => FaultKind::Timeout,
        "slow" => FaultKind::Slow,
        "gateway_timeout" => FaultKind::GatewayTimeout,
        "late_usage" => FaultKind::LateUsage { after_secs },
        _ => {
            let code = decline_code.as_deref().unwrap_or("generic_decline");
            let decline = test_cards::decline_named(code).ok_or_else(|| {
                ApiError::bad_param("decline_code", format!("Unknown decline code: {code}"))
            })?;
            FaultKind::Decline(decline)
        }
    };
    // With neither parameter, the fault applies to the next matching request.
    let remaining = next.or(if every.is_none() { Some(1) } else { None });
    let fault = Fault {
        kind,
        name,
        method,
        path,
        every: every.unwrap_or(1),
        remaining,
        matched: 0,
        applied: 0,
        retry_after_secs,
    };
    let response = fault.render();
    call.state.faults.push(fault);
    Ok(response)
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
    meter_events::count_all(call.state);
    Ok(json!({ "data": [] }))
}

#[cfg(test)]
mod tests {
    use super::path_matches;

    #[test]
    fn patterns_match_whole_paths() {
        assert!(path_matches("/v1/invoices/*/pay", "/v1/invoices/in_1/pay"));
        assert!(path_matches("/v1/*", "/v1/customers"));
        assert!(!path_matches("/v1/customers", "/v1/customers/cus_1"));
        assert!(!path_matches(
            "/v1/invoices/*/pay",
            "/v1/invoices/in_1/void"
        ));
    }
}
