//! A route in front of an upstream: reserve, forward, then confirm or release.

use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use reqwest::Url;
use rust_decimal::Decimal;

use super::calls::Calls;
use super::forward::{self, Call, Forwarding};
use super::reservation::{CallReservation, TTL_SECS};
use super::target;
use crate::catalogue::EnforcedRoute;
use crate::metering::usage::response;
use crate::metering::usage::routes::Usage;
use crate::server::layers::{Peer, RequestId};
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::Principal;

/// What a call consumes, and where it goes.
#[derive(Clone)]
pub struct Gateway {
    pub usage: Usage,
    pub calls: Calls,
    pub metric: String,
    pub amount: Decimal,
    pub upstream: Url,
    pub fail_open: bool,
}

impl Gateway {
    pub fn of(route: &EnforcedRoute, usage: Usage, calls: Calls) -> Self {
        Self {
            usage,
            calls,
            metric: route.metric.clone(),
            amount: route.amount,
            upstream: route.upstream.clone(),
            fail_open: route.fail_open,
        }
    }

    /// Forwards a call of `caller`; `rest` is its raw path below the route's own.
    pub async fn call(
        &self,
        caller: &Principal,
        rest: Option<&str>,
        request: Request,
    ) -> Result<Response, Problem> {
        let started = Instant::now();
        let organization_id = caller.organization_id;
        let url = target::url(&self.upstream, rest, request.uri().query())?;
        let calls = &self.calls;
        let slot = calls.budget.admit(organization_id)?;
        let reserved = self
            .usage
            .ledger
            .reserve(organization_id, &self.metric, self.amount, TTL_SECS)
            .await;
        let (headers, reservation) = match reserved {
            Ok((decided, reservation)) => {
                let outcome = response::outcome(&decided);
                metrics::decision(outcome, &self.metric, started.elapsed());
                let headers = response::headers(&self.metric, &decided);
                if let Some(problem) = response::denied(&self.metric, &decided) {
                    self.usage
                        .note_denial(organization_id, &self.metric, &decided);
                    let mut response = problem.into_response();
                    response.headers_mut().extend(headers);
                    return Ok(response);
                }
                (headers, reservation)
            }
            Err(error) => {
                self.usage
                    .undecided(&self.metric, &error, self.fail_open, started)?;
                (response::failed_open(&self.metric), None)
            }
        };
        let reservation = CallReservation::new(
            self.usage.ledger.clone(),
            calls.reservations.clone(),
            reservation,
        );
        let (parts, body) = request.into_parts();
        let call = Call {
            method: parts.method,
            headers: parts.headers,
            body: Body::new(body),
            organization_id,
            client_ip: caller.client.ip,
            request_id: parts.extensions.get::<RequestId>().cloned(),
        };
        let forwarding = Forwarding {
            client: calls.client.clone(),
            url,
            call,
            reservation,
            slot,
            line: parts.extensions.get::<Peer>().map(|peer| peer.0.clone()),
            stop: calls.stop.clone(),
        };
        let mut response = forward::forward(&calls.tasks, forwarding).await?;
        response.headers_mut().extend(headers);
        Ok(response)
    }
}
