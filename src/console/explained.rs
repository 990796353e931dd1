//! Explanations: the question in the address, the answer and its causes on the page.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::query::{address, filled};
use super::screen::{Block, Field, Filter, Refusal, Screen};
use super::session::Signed;
use super::{Console, organizations};
use crate::explain::Explanation;
use crate::explain::routes::ExplainQuery;
use crate::server::extract::Query;
use crate::server::problem::Problem;

pub const PATH: &str = "/console/explain";

/// The question, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    event: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    invoice: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    request: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    org: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    metric: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    feature: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    at: Option<String>,
}

impl Asked {
    fn block(&self) -> Block {
        let field = |name, label, value: &Option<String>, example| {
            Field::text(name, label, value.as_deref(), example)
        };
        Block::Filter(Filter {
            action: PATH,
            label: "Ask for an explanation",
            submit: "Explain",
            fields: vec![
                field("event", "An event", &self.event, "evt_…"),
                field("invoice", "or an invoice", &self.invoice, "in_…"),
                field(
                    "request",
                    "or a refused request",
                    &self.request,
                    "X-Request-Id",
                ),
                field("org", "or an organization", &self.org, "id or external id"),
                field("metric", "its metric", &self.metric, "api_calls"),
                field("feature", "or its feature", &self.feature, "sso"),
                field("at", "as of", &self.at, "2026-01-31T12:00:00Z"),
            ],
        })
    }

    fn is_empty(&self) -> bool {
        let fields = [
            &self.event,
            &self.invoice,
            &self.request,
            &self.org,
            &self.metric,
            &self.feature,
        ];
        fields.iter().all(|field| field.is_none())
    }

    fn at(&self) -> Result<Option<Timestamp>, Problem> {
        let at = self.at.as_ref().map(|at| at.parse()).transpose();
        at.map_err(|_| {
            Problem::new(
                axum::http::StatusCode::BAD_REQUEST,
                "invalid_query",
                "as of: expected a time such as 2026-01-31T12:00:00Z",
            )
        })
    }
}

pub fn of_plan(organization: Uuid) -> String {
    address(PATH, &[("org", Some(&organization.to_string()))])
}

pub fn of_metric(organization: Uuid, metric: &str) -> String {
    let organization = organization.to_string();
    address(
        PATH,
        &[("org", Some(&organization)), ("metric", Some(metric))],
    )
}

pub fn of_feature(organization: Uuid, feature: &str) -> String {
    let organization = organization.to_string();
    address(
        PATH,
        &[("org", Some(&organization)), ("feature", Some(feature))],
    )
}

pub fn of_invoice(invoice: &str) -> String {
    address(PATH, &[("invoice", Some(invoice))])
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<Asked>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let mut screen = Screen::new(&signed, PATH, "Explain").lead(
        "From an event, an invoice, a refused request, a plan, a metric or a feature to its causes. Every number on \
         an organization's page leads here.",
    );
    if asked.is_empty() {
        return Ok(screen.with(asked.block()).answer());
    }
    let query = ExplainQuery {
        event: asked.event.clone(),
        invoice: asked.invoice.clone(),
        request_id: asked.request.clone(),
        organization_id: organizations::named(&console, asked.org.as_deref()).await?,
        metric: asked.metric.clone(),
        feature: asked.feature.clone(),
        at: asked.at()?,
    };
    let question = query.question()?;
    let explained = console
        .explaining
        .answer(&signed.operator, &question)
        .await?;
    if let Some(organization) = explained.organization_id {
        screen = screen.above(&organizations::page_of(organization), "The organization");
    }
    let screen = screen
        .with(asked.block())
        .with(block(&explained.subject, &explained));
    Ok(screen.answer())
}

/// An explanation as a part of a page.
pub fn block(title: &str, explained: &Explanation) -> Block {
    let causes = explained.causes.iter().map(|cause| {
        let kind = serde_json::to_value(cause.kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default().replace('_', " ");
        let facts = match cause
            .facts
            .as_object()
            .is_some_and(|facts| facts.is_empty())
        {
            true => String::new(),
            false => serde_json::to_string_pretty(&cause.facts).unwrap_or_default(),
        };
        (kind, cause.sentence.clone(), facts)
    });
    Block::Causes {
        title: title.to_owned(),
        answer: explained.answer.clone(),
        causes: causes.collect(),
    }
}
