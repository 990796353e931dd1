//! The OpenAPI document: the operations of the table of routes, and what they
//! all share, which is added here: credentials, problems, limits.

pub mod routes;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema as _, ToSchema as _};

use super::problem::ProblemDetails;
use super::routes::{Access, Idempotency, JSON, Route};

const DESCRIPTION: &str = "Billing between Stripe, a product and its operators.\n\n\
    Amounts are integers in the currency's minor unit; times are RFC 3339 in UTC. Errors are \
    `application/problem+json` with a stable `code`. Lists come in pages: `nextCursor` of one is \
    `cursor` of the next. Every response has an `X-Request-Id`.";

/// The document of these routes, and of what the product is sent.
pub fn document(
    routes: &[Route],
    schemas: &[(String, RefOr<Schema>)],
    webhooks: Map<String, Value>,
) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let described = route.method.as_ref().zip(route.operation.as_ref());
        let Some((method, operation)) = described else {
            continue;
        };
        let operation = serde_json::to_value(operation).expect("an operation is plain values");
        let item = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = complete(operation, route);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "valuecanvas-billing",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "Proprietary", "identifier": "LicenseRef-Proprietary"},
        },
        "servers": [{"url": "/", "description": "The service that this document is from."}],
        "paths": paths,
        "webhooks": webhooks,
        "components": components(schemas),
    });
    refer(&mut document);
    document
}

/// The document as it is written: of several media types JSON comes first,
/// which is what generators of clients choose.
pub struct Written<'a>(pub &'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => {
                let (first, others): (Vec<_>, Vec<_>) =
                    members.iter().partition(|(name, _)| *name == JSON);
                let members = first.into_iter().chain(others);
                serializer.collect_map(members.map(|(name, value)| (name, Written(value))))
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Written)),
            plain => plain.serialize(serializer),
        }
    }
}

/// An operation, with what the route's entry says of it.
fn complete(mut operation: Value, route: &Route) -> Value {
    operation["security"] = match route.access {
        Access::Public => json!([]),
        Access::StripeSignature => json!([{"stripeSignature": []}]),
        _ => json!([{"bearer": []}]),
    };
    if let Some(permission) = route.access.permission() {
        operation["x-permission"] = json!(permission.as_str());
    }
    let credential = route.access.needs_credential();
    let mut problems = vec![("default", "Problem")];
    if credential {
        problems.extend([
            ("401", "Unauthenticated"),
            ("403", "Forbidden"),
            ("429", "RateLimited"),
        ]);
    }
    if route.path.contains('{') {
        problems.push(("404", "NotFound"));
    }
    for (status, name) in problems {
        if operation["responses"][status].is_null() {
            let reference = format!("#/components/responses/{name}");
            operation["responses"][status] = json!({"$ref": reference});
        }
    }
    let responses = operation["responses"].as_object_mut();
    for (status, response) in responses.into_iter().flatten() {
        let is_problem = status.starts_with(['4', '5']) && response["$ref"].is_null();
        if is_problem && response["content"].is_null() {
            response["content"] = json!({"application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"}}});
        }
    }
    let changes = route.method != Some(axum::http::Method::GET);
    if changes && credential && route.idempotency != Idempotency::Ignored {
        let key = json!({"$ref": "#/components/parameters/IdempotencyKey"});
        match operation["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(key),
            None => operation["parameters"] = json!([key]),
        }
    }
    operation
}

/// Has a schema that is spelled out, and has a name as well, be called by its
/// name: generated clients then have one type for it.
fn refer(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object();
    let named = schemas.into_iter().flatten();
    let named: BTreeMap<String, String> = named
        .filter(|(_, schema)| schema["properties"].is_object())
        .map(|(name, schema)| (schema.to_string(), name.clone()))
        .collect();
    let schemas = document["components"]["schemas"].as_object_mut();
    for (_, schema) in schemas.into_iter().flatten() {
        refer_below(schema, &named);
    }
    refer_below(&mut document["paths"], &named);
    refer_below(&mut document["webhooks"], &named);
}

fn refer_below(value: &mut Value, named: &BTreeMap<String, String>) {
    let below: Vec<&mut Value> = match value {
        Value::Object(members) => members.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => return,
    };
    for part in below {
        let name = part["properties"]
            .is_object()
            .then(|| named.get(&part.to_string()))
            .flatten();
        match name {
            Some(name) => *part = json!({"$ref": format!("#/components/schemas/{name}")}),
            None => refer_below(part, named),
        }
    }
}

fn components(schemas: &[(String, RefOr<Schema>)]) -> Value {
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": {"application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"}}},
        })
    };
    let mut rate_limited = problem("Too many requests of this credential.");
    rate_limited["headers"] = json!({"Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    }});
    json!({
        "schemas": named(schemas),
        "responses": {
            "Problem": problem("What is wrong; `code` says it to programs."),
            "Unauthenticated": problem("No credential, or none that holds."),
            "Forbidden": problem("The credential does not have the permission."),
            "NotFound": problem("There is none, or it is another organization's."),
            "RateLimited": rate_limited,
        },
        "parameters": {"IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Makes the request safe to send again: for a day, the same key and \
                            request get the first answer again, with `Idempotent-Replayed: true`.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
        }},
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of `POST /api/auth/login`, an API key, or a service key. \
                                A service key is the product's: send the header \
                                `X-Organization` with it, the organization's external id or id, \
                                wherever the path or the body does not name one.",
            },
            "stripeSignature": {
                "type": "apiKey",
                "in": "header",
                "name": "Stripe-Signature",
                "description": "Made by Stripe with the endpoint's signing secret.",
            },
        },
    })
}

/// The schemas by name; two that share a name would be one in every client.
fn named(schemas: &[(String, RefOr<Schema>)]) -> Map<String, Value> {
    let mut all = Map::new();
    let problem = (
        ProblemDetails::name().into_owned(),
        ProblemDetails::schema(),
    );
    for (name, schema) in schemas.iter().chain([&problem]) {
        let schema = serde_json::to_value(schema).expect("a schema is plain values");
        let before = all.insert(name.clone(), schema.clone());
        assert!(
            before.is_none_or(|before| before == schema),
            "two schemas are called {name}"
        );
    }
    all
}
