//! How many requests a credential may send: a bucket for each, in this
//! process, which empties by the request and fills with time. Said in the
//! fields of the IETF's draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy`
//! and `RateLimit`.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use super::caller::Caller;
use crate::auth::{is_forward_auth, is_forwarded};
use crate::error::Problem;

pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const WINDOW_SECS: u32 = 60;
/// After how many requests the buckets that are full again are dropped.
const SWEEP_EVERY: u32 = 4_096;

/// What a product calls for each of its users' requests; bounded by quotas,
/// and by a limit of their own that only a loop reaches.
const METERED: [&str; 2] = ["/api/billing/usage/check", "/api/billing/usage/events"];

/// Requests a minute for each credential; 0: as many as come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub api_per_minute: u32,
    pub usage_per_minute: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            api_per_minute: 6_000,
            usage_per_minute: 6_000_000,
        }
    }
}

/// The buckets.
#[derive(Clone)]
pub struct Limits {
    api: Option<Arc<Buckets>>,
    usage: Option<Arc<Buckets>>,
}

impl Limits {
    pub fn new(rates: Rates) -> Self {
        let buckets = |name, per_minute| {
            let per_minute = NonZeroU32::new(per_minute)?;
            Some(Arc::new(Buckets::new(
                name,
                per_minute,
                DefaultClock::default(),
            )))
        };
        Self {
            api: buckets("api", rates.api_per_minute),
            usage: buckets("usage", rates.usage_per_minute),
        }
    }
}

/// The layer of every route that has callers; behind the one that knows them.
pub async fn limit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let metered = path.is_some_and(|path| {
        let path = path.as_str();
        METERED.contains(&path) || is_forward_auth(path) || is_forwarded(request.method(), path)
    });
    let buckets = if metered { limits.usage } else { limits.api };
    let (Some(buckets), Some(caller)) = (buckets, Caller::of(&request)) else {
        return next.run(request).await;
    };
    let standing = buckets.take((caller.actor.as_str(), caller.actor.id()));
    let mut response = match standing.retry_after_secs {
        None => next.run(request).await,
        Some(secs) => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "this credential sends too many requests; wait, and send fewer",
        )
        .retry_after(secs)
        .into_response(),
    };
    buckets.describe(standing, response.headers_mut());
    response
}

/// A credential: its kind, and the user or key.
type Credential = (&'static str, Option<Uuid>);

struct Buckets<C: Clock = DefaultClock> {
    name: &'static str,
    per_minute: NonZeroU32,
    policy: HeaderValue,
    clock: C,
    limiter: RateLimiter<Credential, HashMapStateStore<Credential>, C, StateInformationMiddleware>,
    taken: AtomicU32,
}

/// Where a credential stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    remaining: u32,
    /// Until all of it is there again.
    full_after_secs: u32,
    /// None: the request may go on.
    retry_after_secs: Option<u32>,
}

impl<C: Clock + Clone> Buckets<C> {
    fn new(name: &'static str, per_minute: NonZeroU32, clock: C) -> Self {
        let policy = format!("\"{name}\";q={per_minute};w={WINDOW_SECS}");
        let quota = Quota::per_minute(per_minute);
        let limiter = RateLimiter::hashmap_with_clock(quota, clock.clone());
        Self {
            name,
            per_minute,
            policy: HeaderValue::try_from(policy).expect("it is plain text"),
            clock,
            limiter: limiter.with_middleware(),
            taken: AtomicU32::new(0),
        }
    }

    fn take(&self, credential: Credential) -> Standing {
        if self.taken.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let (remaining, wait) = match self.limiter.check_key(&credential) {
            Ok(snapshot) => (snapshot.remaining_burst_capacity(), None),
            Err(refusal) => (0, Some(refusal.wait_time_from(self.clock.now()))),
        };
        let missing = u64::from(self.per_minute.get().saturating_sub(remaining));
        let full_after = (missing * u64::from(WINDOW_SECS)).div_ceil(self.per_minute.get().into());
        let whole_secs = |wait: std::time::Duration| wait.as_millis().div_ceil(1_000).max(1);
        Standing {
            remaining,
            full_after_secs: u32::try_from(full_after).unwrap_or(WINDOW_SECS),
            retry_after_secs: wait.map(|wait| u32::try_from(whole_secs(wait)).unwrap_or(u32::MAX)),
        }
    }

    fn describe(&self, standing: Standing, headers: &mut HeaderMap) {
        let Standing {
            remaining,
            full_after_secs,
            ..
        } = standing;
        let text = format!("\"{}\";r={remaining};t={full_after_secs}", self.name);
        headers.insert(RATE_LIMIT_POLICY, self.policy.clone());
        headers.insert(
            RATE_LIMIT,
            HeaderValue::try_from(text).expect("it is plain text"),
        );
    }
}

/// What a browser's script may read of an answer.
pub const EXPOSED: [HeaderName; 3] = [RATE_LIMIT, RATE_LIMIT_POLICY, header::RETRY_AFTER];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const ONE: Credential = ("user", Some(Uuid::from_u128(1)));
    const OTHER: Credential = ("api_key", Some(Uuid::from_u128(1)));

    fn buckets(per_minute: u32) -> (Buckets<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let per_minute = NonZeroU32::new(per_minute).unwrap();
        (Buckets::new("api", per_minute, clock.clone()), clock)
    }

    fn standing(remaining: u32, full_after_secs: u32, retry_after_secs: Option<u32>) -> Standing {
        Standing {
            remaining,
            full_after_secs,
            retry_after_secs,
        }
    }

    #[test]
    fn a_bucket_empties_by_the_request_and_fills_with_time() {
        let (buckets, clock) = buckets(4);
        for (remaining, full_after) in [(3, 15), (2, 30), (1, 45), (0, 60)] {
            assert_eq!(buckets.take(ONE), standing(remaining, full_after, None));
        }
        assert_eq!(buckets.take(ONE), standing(0, 60, Some(15)));
        assert_eq!(buckets.take(OTHER), standing(3, 15, None), "a bucket each");
        clock.advance(Duration::from_millis(14_900));
        assert_eq!(buckets.take(ONE), standing(0, 60, Some(1)));
        clock.advance(Duration::from_millis(100));
        assert_eq!(buckets.take(ONE), standing(0, 60, None));
        clock.advance(Duration::from_secs(600));
        assert_eq!(
            buckets.take(ONE),
            standing(3, 15, None),
            "no more than full"
        );
    }

    #[test]
    fn the_headers_are_the_drafts() {
        let (buckets, _) = buckets(4);
        let mut headers = HeaderMap::new();
        buckets.describe(buckets.take(ONE), &mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"api\";q=4;w=60");
        assert_eq!(headers["ratelimit"], "\"api\";r=3;t=15");
    }

    #[test]
    fn who_stays_away_is_forgotten() {
        let (buckets, clock) = buckets(60);
        for n in 0..1_000 {
            buckets.take(("user", Some(Uuid::from_u128(n))));
        }
        assert_eq!(buckets.limiter.len(), 1_000);
        clock.advance(Duration::from_secs(60));
        for _ in 0..SWEEP_EVERY {
            buckets.take(ONE);
        }
        assert!(buckets.limiter.len() <= 1, "{}", buckets.limiter.len());
    }
}
