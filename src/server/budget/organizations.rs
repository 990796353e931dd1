//! What one organization may have under way at once: the rest of its requests
//! wait, for a moment, before their bodies are read, and nobody else's with
//! them. So no organization has all of the connections, of the memory or of
//! the time that everybody shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::limits;
use crate::server::caller::Caller;
use crate::server::layers::idempotency;
use crate::server::layers::media::{self, Wanted};
use crate::server::problem::Problem;
use crate::server::routes::{Idempotency, Route, Share as Kind};
use crate::telemetry::metrics;
use crate::telemetry::seldom::Seldom;

/// A class of requests, and what one organization may have of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    /// The label of the metric.
    class: &'static str,
    room: limits::OfOrganization,
    code: &'static str,
    detail: &'static str,
}

const TOO_MANY: &str = "too_many_requests";
const WAIT_FOR_ANSWERS: &str = "this organization has as many requests of this kind under way as it \
                                may; wait for their answers, or send this again a little later";

const USAGE: Limit = Limit {
    class: "usage",
    room: limits::USAGE,
    code: "too_many_usage_events",
    detail: "this organization sends more usage than is its share, and this was not counted: \
             send it again with the same id, a little later",
};
const READS: Limit = Limit {
    class: "reads",
    room: limits::READS,
    code: TOO_MANY,
    detail: WAIT_FOR_ANSWERS,
};
const PREVIEWS: Limit = Limit {
    class: "previews",
    room: limits::PREVIEWS,
    ..READS
};
const CHANGES: Limit = Limit {
    class: "changes",
    room: limits::CHANGES,
    ..READS
};
const ORGANIZATIONS: Limit = Limit {
    class: "organizations",
    room: limits::ORGANIZATIONS,
    detail: "this service key has as many changes of organizations under way as it may; wait for \
             their answers, or send this again a little later",
    ..READS
};
const EXPORTS: Limit = Limit {
    class: "exports",
    room: limits::EXPORTS,
    ..READS
};
const STATES: Limit = Limit {
    class: "states",
    room: limits::STATES,
    ..READS
};
const LIMITS: [Limit; 7] = [
    USAGE,
    READS,
    PREVIEWS,
    CHANGES,
    ORGANIZATIONS,
    EXPORTS,
    STATES,
];

const ASK_AGAIN_SECS: u32 = 1;

/// The classes of requests, apart for each organization.
#[derive(Clone)]
pub struct Shares(Arc<[Class; LIMITS.len()]>);

struct Class {
    turnstile: Turnstile,
    refused: Seldom,
}

impl Default for Shares {
    fn default() -> Self {
        for limit in LIMITS {
            metrics::start_share(limit.class);
        }
        Self(Arc::new(LIMITS.map(|limit| Class {
            turnstile: Turnstile::new(limit.room),
            refused: Seldom::default(),
        })))
    }
}

impl Shares {
    /// Waits for the request's turn in its organization.
    pub fn enter<'a>(
        &'a self,
        route: &Route,
        caller: &Caller,
        request: &Request<Body>,
    ) -> impl Future<Output = Result<Passes, Response>> + Send + use<'a> {
        let (first, second) = limits_of(route, request);
        let usage_units = units(request);
        let organization = caller.share_of();
        async move {
            let mut passes = [None, None];
            for (limit, pass) in [first, second].into_iter().zip(&mut passes) {
                let Some(limit) = limit else { continue };
                let units = if limit == USAGE { usage_units } else { 1 };
                let class = self.class(limit);
                let entered =
                    class
                        .turnstile
                        .enter(organization, units, limits::WAIT_OF_ORGANIZATION);
                match entered.await {
                    Ok(passed) => *pass = Some(passed),
                    Err(Busy) => return Err(class.refusal(limit, organization)),
                }
            }
            Ok(Passes {
                _passes: passes,
                until_sent: first == Some(EXPORTS),
            })
        }
    }

    fn class(&self, limit: Limit) -> &Class {
        let at = LIMITS.iter().position(|listed| *listed == limit);
        &self.0[at.unwrap_or_default()]
    }
}

/// A request's turn.
pub struct Passes {
    _passes: [Option<Pass>; 2],
    /// It lasts until the response is sent, not until it begins.
    until_sent: bool,
}

impl Passes {
    /// Ends the turn with the response.
    pub fn hold_for(self: Arc<Self>, response: Response) -> Response {
        if !self.until_sent {
            return response;
        }
        let (parts, body) = response.into_parts();
        let body = body.into_data_stream().map(move |chunk| {
            let _under_way = &self;
            chunk
        });
        Response::from_parts(parts, Body::from_stream(body))
    }
}

impl Class {
    fn refusal(&self, limit: Limit, organization: Uuid) -> Response {
        let class = limit.class;
        metrics::share_exceeded(class);
        if let Some(requests) = self.refused.happened(Instant::now()) {
            tracing::warn!(
                class,
                requests,
                %organization,
                "Requests refused: their organizations have their shares; the last one's is named"
            );
        }
        Problem::new(StatusCode::TOO_MANY_REQUESTS, limit.code, limit.detail)
            .retry_after(ASK_AGAIN_SECS)
            .into_response()
    }
}

/// What a request takes of.
fn limits_of(route: &Route, request: &Request<Body>) -> (Option<Limit>, Option<Limit>) {
    let first = match route.share {
        Kind::Free => None,
        Kind::Usage => Some(USAGE),
        Kind::Previews => Some(PREVIEWS),
        Kind::States => Some(STATES),
        Kind::Changes => Some(CHANGES),
        Kind::Organizations => Some(ORGANIZATIONS),
        Kind::Downloads => Some(EXPORTS),
        Kind::Exports if wants_csv(request) => Some(EXPORTS),
        Kind::Exports | Kind::Reads => Some(READS),
    };
    // The keys are kept by the connections that all share.
    let keyed = route.share == Kind::Usage
        && route.idempotency == Idempotency::Kept
        && request.headers().contains_key(idempotency::HEADER);
    (first, keyed.then_some(READS))
}

fn wants_csv(request: &Request<Body>) -> bool {
    let wanted = request.extensions().get::<Wanted>();
    wanted.is_some_and(|wanted| wanted.is(media::CSV))
}

/// Of a body that does not say its length, the most.
fn units(request: &Request<Body>) -> u32 {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let has_body = *request.method() != Method::GET && *request.method() != Method::HEAD;
    let Some(length) = length.or((!has_body).then_some(0)) else {
        return limits::USAGE_UNITS_OF_REQUEST;
    };
    let units = u32::try_from(1 + length / limits::USAGE_UNIT).unwrap_or(u32::MAX);
    units.min(limits::USAGE_UNITS_OF_REQUEST)
}

/// As many units as it has for each who comes, in the order in which they come.
pub struct Turnstile {
    units: u32,
    waiting: usize,
    shares: Arc<Mutex<HashMap<Uuid, Share>>>,
}

#[derive(Debug)]
struct Share {
    free: Arc<Semaphore>,
    /// Those who are in, and those who wait.
    present: usize,
    waiting: usize,
}

/// It took too long, or too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

/// Units that are taken until this is dropped.
#[derive(Debug)]
pub struct Pass {
    // The units are given back before it is forgotten who had them.
    _units: OwnedSemaphorePermit,
    _present: Present,
}

#[derive(Debug)]
struct Present {
    shares: Arc<Mutex<HashMap<Uuid, Share>>>,
    who: Uuid,
    waits: bool,
}

impl Turnstile {
    pub fn new(room: limits::OfOrganization) -> Self {
        Self {
            units: room.units,
            waiting: room.waiting,
            shares: Arc::default(),
        }
    }

    pub async fn enter(&self, who: Uuid, units: u32, patience: Duration) -> Result<Pass, Busy> {
        let units = units.min(self.units);
        let (free, mut present) = {
            let mut shares = lock(&self.shares);
            let share = shares.entry(who).or_insert_with(|| Share {
                free: Arc::new(Semaphore::new(self.units as usize)),
                present: 0,
                waiting: 0,
            });
            let at_once = share.free.clone().try_acquire_many_owned(units).ok();
            if at_once.is_none() && share.waiting >= self.waiting {
                return Err(Busy);
            }
            share.present += 1;
            let present = Present {
                shares: self.shares.clone(),
                who,
                waits: at_once.is_none(),
            };
            if let Some(units) = at_once {
                return Ok(Pass {
                    _units: units,
                    _present: present,
                });
            }
            share.waiting += 1;
            (share.free.clone(), present)
        };
        let acquiring = free.acquire_many_owned(units);
        let acquired = tokio::time::timeout(patience, acquiring).await;
        let units = acquired.ok().and_then(Result::ok).ok_or(Busy)?;
        present.waits_no_more();
        Ok(Pass {
            _units: units,
            _present: present,
        })
    }
}

fn lock(shares: &Mutex<HashMap<Uuid, Share>>) -> MutexGuard<'_, HashMap<Uuid, Share>> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Present {
    fn waits_no_more(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(share) = lock(&self.shares).get_mut(&self.who)
        {
            share.waiting -= 1;
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.waits_no_more();
        let mut shares = lock(&self.shares);
        let Some(share) = shares.get_mut(&self.who) else {
            return;
        };
        share.present -= 1;
        if share.present == 0 {
            shares.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::server::routes::{RateClass, Rules, public};

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn each_has_a_share_and_the_rest_waits_in_order() {
        let turnstile = Turnstile::new(limits::OfOrganization {
            units: 2,
            waiting: 2,
        });
        let first = turnstile.enter(A, 1, LONG).await.unwrap();
        let second = turnstile.enter(A, 1, LONG).await.unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut third = pin!(turnstile.enter(A, 2, LONG));
        let mut fourth = pin!(turnstile.enter(A, 1, LONG));
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(fourth.as_mut().poll(&mut context).is_pending());
        let beyond = turnstile.enter(A, 1, LONG).await;
        assert_eq!(beyond.unwrap_err(), Busy, "two wait");
        drop(turnstile.enter(B, 2, LONG).await.unwrap());
        drop(first);
        assert!(fourth.as_mut().poll(&mut context).is_pending(), "its turn");
        drop(second);
        let Poll::Ready(Ok(third)) = third.as_mut().poll(&mut context) else {
            panic!("both units are free");
        };
        drop(third);
        drop(fourth.await.unwrap());
        assert!(lock(&turnstile.shares).is_empty(), "nobody is remembered");
    }

    #[tokio::test]
    async fn who_gives_up_or_waits_in_vain_leaves_nothing_behind() {
        let turnstile = Turnstile::new(limits::OfOrganization {
            units: 1,
            waiting: 8,
        });
        let first = turnstile.enter(A, 1, LONG).await.unwrap();
        let late = turnstile.enter(A, 1, Duration::from_millis(1)).await;
        assert_eq!(late.unwrap_err(), Busy);
        {
            let mut gone = pin!(turnstile.enter(A, 1, LONG));
            let mut context = Context::from_waker(Waker::noop());
            assert!(gone.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(lock(&turnstile.shares)[&A].waiting, 0);
        drop(first);
        assert!(lock(&turnstile.shares).is_empty());
        // More than there is comes to all that there is.
        drop(turnstile.enter(A, 9, LONG).await.unwrap());
    }

    fn asks_for_csv(mut request: Request<Body>) -> Request<Body> {
        request
            .extensions_mut()
            .insert(Wanted(media::CSV.to_owned()));
        request
    }

    #[tokio::test]
    async fn an_export_is_under_way_until_its_last_byte() {
        let shares = Shares::default();
        let caller = Caller {
            organization_id: A,
            kind: "user",
            id: None,
        };
        let route = Route::of(Method::GET, public().share(Kind::Exports));
        let request = asks_for_csv(Request::default());
        let ask = async || {
            let passes = shares.enter(&route, &caller, &request).await;
            let response = "a,b\r\n".into_response();
            let passes = passes.ok().map(Arc::new);
            passes.unwrap().hold_for(response)
        };
        let first = ask().await;
        let second = ask().await;
        let mut context = Context::from_waker(Waker::noop());
        let mut third = pin!(ask());
        assert!(third.as_mut().poll(&mut context).is_pending());
        let read = axum::body::to_bytes(first.into_body(), 100).await.unwrap();
        assert_eq!(&read[..], b"a,b\r\n");
        assert_eq!(third.await.status(), StatusCode::OK);
        drop(second);
    }

    #[test]
    fn requests_take_of_what_they_use() {
        let classes = |method: Method, rules: Rules, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let (first, second) = limits_of(&Route::of(method, rules), &request);
            let class = |limit: Option<Limit>| limit.map_or("", |limit| limit.class);
            (class(first), class(second), units(&request))
        };
        let (get, post) = (|| Method::GET, || Method::POST);
        let metered = public().metered(RateClass::Usage);
        let keyed = [("content-length", "60"), ("idempotency-key", "a")];
        for (method, rules, headers, expected) in [
            (get(), public(), &[][..], ("reads", "", 1)),
            (post(), metered, &keyed[..1], ("usage", "", 1)),
            (post(), metered, &keyed, ("usage", "reads", 1)),
            (
                post(),
                metered,
                &[("content-length", "70000")],
                ("usage", "", 18),
            ),
            (
                post(),
                metered,
                &[("transfer-encoding", "chunked")],
                ("usage", "", 32),
            ),
            (
                get(),
                public().forward_auth(),
                &keyed[1..],
                ("usage", "", 1),
            ),
            (post(), public().forwarded(), &[], ("", "", 32)),
            (
                post(),
                public().share(Kind::Previews),
                &[],
                ("previews", "", 32),
            ),
            (Method::PUT, public(), &[], ("changes", "", 32)),
            (get(), public().share(Kind::Exports), &[], ("reads", "", 1)),
            (
                get(),
                public().share(Kind::Downloads),
                &[],
                ("exports", "", 1),
            ),
        ] {
            assert_eq!(classes(method, rules, headers), expected);
        }
        let exports = Route::of(get(), public().share(Kind::Exports));
        let (first, _) = limits_of(&exports, &asks_for_csv(Request::default()));
        assert_eq!(first, Some(EXPORTS));
    }
}
