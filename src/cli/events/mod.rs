//! `events`

mod deliveries;
mod endpoints;
mod listen;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::output::{Format, table};
use crate::app::api;
use crate::config::GlobalArgs;
use crate::outbox::endpoints::EndpointError;
use crate::outbox::{self, EventType};

#[derive(Debug, Subcommand)]
pub enum Events {
    /// List the types of events, with `--json` also their schemas and an example of each.
    Types {
        #[command(flatten)]
        format: Format,
    },
    /// Manage the endpoints that events are sent to.
    #[command(subcommand)]
    Endpoints(endpoints::Endpoints),
    /// List deliveries, send them again, and recover what an endpoint missed.
    #[command(subcommand)]
    Deliveries(deliveries::Deliveries),
    /// Deliver events to a developer's machine while the command runs.
    Listen(listen::Listen),
}

/// The types of events that an endpoint gets.
#[derive(Debug, Args)]
pub struct Types {
    /// A type of events to send, such as invoice.paid; may be given several times. Unset:
    /// all of them.
    #[arg(long = "type", value_name = "T", value_parser = event_type)]
    types: Vec<String>,
}

fn event_type(text: &str) -> Result<String, String> {
    match EventType::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("there is no such event type; `events types` lists them".to_owned()),
    }
}

impl Events {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        match self {
            Self::Types { format } => types(format),
            Self::Endpoints(endpoints) => endpoints.run(global).await,
            Self::Deliveries(deliveries) => deliveries.run(global).await,
            Self::Listen(listen) => listen.run(global).await,
        }
    }
}

fn types(format: Format) -> Result<(), Failure> {
    let document = api::document();
    let schemas = &document["components"]["schemas"];
    let all: Vec<Value> = EventType::ALL
        .into_iter()
        .map(|one| {
            let mut schema = outbox::schema(one);
            spell_out(&mut schema, schemas);
            json!({
                "type": one.as_str(),
                "summary": one.summary(),
                "schema": schema,
                "example": one.example(),
            })
        })
        .collect();
    format.print(&all, |_| {
        let rows: Vec<Vec<String>> = EventType::ALL
            .into_iter()
            .map(|one| vec![one.as_str().to_owned(), one.summary().to_owned()])
            .collect();
        table(&["TYPE", "WHEN"], &rows)
    })
}

/// Replaces each reference to a schema of the document by the schema itself, so that the
/// output stands alone.
fn spell_out(schema: &mut Value, schemas: &Value) {
    let named = schema["$ref"].as_str();
    let named = named.and_then(|name| name.strip_prefix("#/components/schemas/"));
    if let Some(found) = named.map(|name| schemas[name].clone()) {
        *schema = found;
    }
    match schema {
        Value::Object(members) => members
            .values_mut()
            .for_each(|below| spell_out(below, schemas)),
        Value::Array(items) => items.iter_mut().for_each(|below| spell_out(below, schemas)),
        _ => {}
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Database(error) => error.into(),
            EndpointError::Refused(_)
            | EndpointError::UnknownType(_)
            | EndpointError::Description => Self::usage(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}
