//! How many requests a credential may send, and how many of an organization Stripe is asked
//! for: a bucket for each, in this process, which empties by the request and fills with time. A batch of usage
//! events takes as many as it has events, or started kibibytes. Said in the
//! fields of the IETF's draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy`
//! and `RateLimit`.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use crate::config::Rates;
use crate::limits;
use crate::server::caller::{Caller, SERVICE_KEY};
use crate::server::problem::Problem;
use crate::server::routes::{RateClass, Route, Share};

pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const WINDOW_SECS: u32 = 60;
/// After how many requests the buckets that are full again are dropped.
const SWEEP_EVERY: u32 = 4_096;

/// What a stored event is reckoned at: larger ones count for several.
const EVENT_BYTES: usize = 1024;

/// The buckets.
#[derive(Clone)]
pub struct Limits {
    api: Option<Arc<Buckets>>,
    usage: Option<Arc<Buckets>>,
    /// What Stripe is asked for, by organization.
    stripe: Option<Arc<Buckets>>,
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
            // Who lifts the limit of credentials lifts this one as well.
            stripe: match rates.api_per_minute {
                0 => None,
                _ => buckets("stripe", limits::ASKED_OF_STRIPE_PER_MINUTE),
            },
        }
    }
}

impl Limits {
    /// Takes one request of its caller's bucket, or refuses it.
    pub fn take(
        &self,
        class: RateClass,
        caller: &Caller,
        request: &mut Request,
    ) -> Result<Taken, Box<Response>> {
        let buckets = match class {
            RateClass::Api => &self.api,
            RateClass::Usage | RateClass::UsageEvents => &self.usage,
        };
        let Some(buckets) = buckets else {
            return Ok(Taken(None));
        };
        let credential = Credential::of(caller);
        let status = buckets.take(credential);
        if status.retry_after_secs.is_some() {
            return Err(Box::new(refused(buckets, status)));
        }
        let meter = (class == RateClass::UsageEvents).then(|| Meter {
            buckets: buckets.clone(),
            credential,
            status: Arc::default(),
        });
        if let Some(meter) = &meter {
            request.extensions_mut().insert(meter.clone());
        }
        let buckets = buckets.clone();
        Ok(Taken(Some((buckets, status, meter))))
    }
}

impl Limits {
    /// Takes one of what Stripe may be asked for an organization, whoever asks, or refuses it.
    pub fn take_of_stripe(&self, route: &Route, caller: &Caller) -> Result<(), Box<Response>> {
        let organization = Some(caller.organization_id).filter(|id| !id.is_nil());
        let asks = matches!(route.share, Share::Changes | Share::Previews);
        let (Some(buckets), Some(id)) = (&self.stripe, organization.filter(|_| asks)) else {
            return Ok(());
        };
        let standing = buckets.take(Credential {
            kind: "organization",
            id: Some(id),
            organization: None,
        });
        match standing.retry_after_secs {
            None => Ok(()),
            Some(_) => Err(Box::new(refused(buckets, standing))),
        }
    }
}

/// What was taken for a request; None: there is no limit.
pub struct Taken(Option<(Arc<Buckets>, RateLimitStatus, Option<Meter>)>);

impl Taken {
    /// Says in the response where its caller stands.
    pub fn describe(self, mut response: Response) -> Response {
        if let Self(Some((buckets, status, meter))) = self {
            let later = meter.and_then(|meter| meter.status.get().copied());
            buckets.describe(later.unwrap_or(status), response.headers_mut());
        }
        response
    }
}

fn refused(buckets: &Buckets, status: RateLimitStatus) -> Response {
    let mut response = too_many(status).into_response();
    buckets.describe(status, response.headers_mut());
    response
}

fn too_many(status: RateLimitStatus) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        "Too many requests or usage events from this credential, or changes and previews of this \
         organization; retry later and send fewer.",
    )
    .retry_after(status.retry_after_secs.unwrap_or(1))
}

/// Charges a batch for its events, once it is known how many there are.
#[derive(Clone)]
pub struct Meter {
    buckets: Arc<Buckets>,
    credential: Credential,
    status: Arc<OnceLock<RateLimitStatus>>,
}

impl Meter {
    /// Takes for `events` in a body of `bytes`, of which the request itself was
    /// the first; or nothing, where they are too many.
    pub fn charge(&self, events: usize, bytes: usize) -> Result<(), Problem> {
        let cost = events.max(bytes.div_ceil(EVENT_BYTES));
        let more = u32::try_from(cost.saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(status) = self.buckets.take_more(self.credential, more) else {
            return Ok(());
        };
        let status = *self.status.get_or_init(|| status);
        match status.retry_after_secs {
            None => Ok(()),
            Some(_) => Err(too_many(status)),
        }
    }

    /// Takes for the part of a batch that is one organization's, of the bucket that the
    /// service key has for it.
    pub fn charge_organization(
        &self,
        organization: Uuid,
        events: usize,
        bytes: usize,
    ) -> Result<(), Problem> {
        let cost = events.max(bytes.div_ceil(EVENT_BYTES));
        let credential = Credential {
            organization: Some(organization),
            ..self.credential
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        match self.buckets.take_more(credential, cost) {
            Some(status) if status.retry_after_secs.is_some() => Err(too_many(status)),
            _ => Ok(()),
        }
    }
}

/// What has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Credential {
    kind: &'static str,
    /// The user's or the key's.
    id: Option<Uuid>,
    /// Of a service key, the organization that it names: none takes what it may send
    /// for the others.
    organization: Option<Uuid>,
}

impl Credential {
    fn of(caller: &Caller) -> Self {
        let organization = (caller.kind == SERVICE_KEY).then_some(caller.organization_id);
        Self {
            kind: caller.kind,
            id: caller.id,
            organization,
        }
    }
}

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
struct RateLimitStatus {
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

    fn take(&self, credential: Credential) -> RateLimitStatus {
        if self.taken.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        match self.limiter.check_key(&credential) {
            Ok(snapshot) => self.status(snapshot.remaining_burst_capacity(), None),
            Err(refusal) => self.status(0, Some(refusal.wait_time_from(self.clock.now()))),
        }
    }

    /// Takes `more` for a request that has taken one; what a full bucket does
    /// not have takes all of it. None: there is nothing more to take.
    fn take_more(&self, credential: Credential, more: u32) -> Option<RateLimitStatus> {
        let more = NonZeroU32::new(more.min(self.per_minute.get() - 1))?;
        match self.limiter.check_key_n(&credential, more).ok()? {
            Ok(snapshot) => Some(self.status(snapshot.remaining_burst_capacity(), None)),
            Err(refusal) => {
                // The next attempt takes one by itself.
                let one = Duration::from_secs(WINDOW_SECS.into()) / self.per_minute.get();
                let wait = refusal.wait_time_from(self.clock.now()) + one;
                Some(self.status(0, Some(wait)))
            }
        }
    }

    fn status(&self, remaining: u32, wait: Option<Duration>) -> RateLimitStatus {
        let missing = u64::from(self.per_minute.get().saturating_sub(remaining));
        let full_after = (missing * u64::from(WINDOW_SECS)).div_ceil(self.per_minute.get().into());
        let whole_secs = |wait: Duration| wait.as_millis().div_ceil(1_000).max(1);
        RateLimitStatus {
            remaining,
            full_after_secs: u32::try_from(full_after).unwrap_or(WINDOW_SECS),
            retry_after_secs: wait.map(|wait| u32::try_from(whole_secs(wait)).unwrap_or(u32::MAX)),
        }
    }

    fn describe(&self, status: RateLimitStatus, headers: &mut HeaderMap) {
        let RateLimitStatus {
            remaining,
            full_after_secs,
            ..
        } = status;
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
    use governor::clock::FakeRelativeClock;

    use super::*;

    const ONE: Credential = of("user", 1);
    const OTHER: Credential = of("api_key", 1);

    const fn of(kind: &'static str, id: u128) -> Credential {
        Credential {
            kind,
            id: Some(Uuid::from_u128(id)),
            organization: None,
        }
    }

    fn buckets(per_minute: u32) -> (Buckets<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let per_minute = NonZeroU32::new(per_minute).unwrap();
        (Buckets::new("api", per_minute, clock.clone()), clock)
    }

    fn status(
        remaining: u32,
        full_after_secs: u32,
        retry_after_secs: Option<u32>,
    ) -> RateLimitStatus {
        RateLimitStatus {
            remaining,
            full_after_secs,
            retry_after_secs,
        }
    }

    #[test]
    fn a_bucket_empties_by_the_request_and_fills_with_time() {
        let (buckets, clock) = buckets(4);
        for (remaining, full_after) in [(3, 15), (2, 30), (1, 45), (0, 60)] {
            assert_eq!(buckets.take(ONE), status(remaining, full_after, None));
        }
        assert_eq!(buckets.take(ONE), status(0, 60, Some(15)));
        assert_eq!(buckets.take(OTHER), status(3, 15, None), "a bucket each");
        clock.advance(Duration::from_millis(14_900));
        assert_eq!(buckets.take(ONE), status(0, 60, Some(1)));
        clock.advance(Duration::from_millis(100));
        assert_eq!(buckets.take(ONE), status(0, 60, None));
        clock.advance(Duration::from_secs(600));
        assert_eq!(buckets.take(ONE), status(3, 15, None), "no more than full");
    }

    #[test]
    fn a_batch_takes_for_each_of_its_events_or_nothing() {
        let (buckets, clock) = buckets(60);
        let more = |count| buckets.take_more(ONE, count);
        assert_eq!(buckets.take(ONE), status(59, 1, None));
        assert_eq!(more(39), Some(status(20, 40, None)));
        assert_eq!(buckets.take(ONE), status(19, 41, None));
        let refused = more(39).unwrap();
        assert_eq!(refused, status(0, 60, Some(21)));
        assert_eq!(buckets.take(ONE), status(18, 42, None), "nothing is taken");
        // After as long as it was told, it fits.
        clock.advance(Duration::from_secs(22));
        assert_eq!(buckets.take(ONE).retry_after_secs, None);
        assert_eq!(more(39).unwrap().retry_after_secs, None);
    }

    #[test]
    fn a_batch_that_no_bucket_has_takes_a_full_one() {
        let (buckets, clock) = buckets(60);
        assert_eq!(buckets.take(ONE), status(59, 1, None));
        assert_eq!(buckets.take_more(ONE, 999), Some(status(0, 60, None)));
        assert_eq!(buckets.take(ONE), status(0, 60, Some(1)));
        clock.advance(Duration::from_secs(30));
        assert_eq!(buckets.take(ONE), status(29, 31, None));
        let refused = buckets.take_more(ONE, 999).unwrap();
        let wait = refused.retry_after_secs.unwrap();
        clock.advance(Duration::from_secs(wait.into()));
        assert_eq!(buckets.take(ONE).retry_after_secs, None);
        assert_eq!(buckets.take_more(ONE, 999).unwrap().retry_after_secs, None);
        let (tiny, _) = super::tests::buckets(1);
        assert_eq!(tiny.take(ONE).retry_after_secs, None);
        assert_eq!(tiny.take_more(ONE, 999), None);
    }

    #[test]
    fn a_service_key_has_a_bucket_for_each_organization() {
        let of = |kind, organization| {
            let organization_id = Uuid::from_u128(organization);
            Credential::of(&Caller {
                organization_id,
                kind,
                id: Some(Uuid::from_u128(1)),
            })
        };
        assert_ne!(of(SERVICE_KEY, 1), of(SERVICE_KEY, 2));
        assert_eq!(of("user", 1), of("user", 2));
        let (buckets, _) = buckets(4);
        assert_eq!(buckets.take(of(SERVICE_KEY, 1)), status(3, 15, None));
        assert_eq!(buckets.take(of(SERVICE_KEY, 2)), status(3, 15, None));
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
            buckets.take(of("user", n));
        }
        assert_eq!(buckets.limiter.len(), 1_000);
        clock.advance(Duration::from_secs(60));
        for _ in 0..SWEEP_EVERY {
            buckets.take(ONE);
        }
        assert!(buckets.limiter.len() <= 1, "{}", buckets.limiter.len());
    }
}
