//! What the descriptions of all routes share: features describe their routes
//! and the answers that are theirs; the problems, limits and credentials that
//! are everybody's are added here.

use axum::http::Method;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::server::problem::ProblemDetails;
use crate::tenancy::auth::{self, Access};
use crate::webhooks;

/// The description of everything, to which features add theirs.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "valuecanvas-billing",
        description = "Billing between Stripe, a product and its operators. Amounts are integers in \
                       the currency's minor unit, times are RFC 3339 in UTC. Errors are \
                       `application/problem+json` with a stable `code`. Lists come in pages: \
                       `nextCursor` of one is `cursor` of the next. Every answer has an \
                       `X-Request-Id`.",
    ),
    components(schemas(ProblemDetails))
)]
pub struct Base;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Completes a document: credentials, problems, and the headers that every
/// operation takes.
pub fn complete(document: utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("a description is plain values");
    components(&mut document["components"]);
    document["webhooks"] = webhooks();
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                let access = access(method, path);
                operation.insert("security".to_owned(), security(path, access));
                responses(operation, path, access);
                if method != "get" && access != Access::Public {
                    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
                    let parameters = parameters.as_array_mut().expect("parameters are a list");
                    parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
                }
            }
        }
    }
    document
}

fn access(method: &str, path: &str) -> Access {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
    let access = method
        .ok()
        .and_then(|method| auth::access_of(&method, path));
    access.unwrap_or_else(|| panic!("{path} is described, and in nobody's table of routes"))
}

fn security(path: &str, access: Access) -> Value {
    match access {
        Access::Public if path == webhooks::endpoint::PATH => json!([{"stripeSignature": []}]),
        Access::Public => json!([]),
        _ => json!([{"bearer": []}]),
    }
}

fn responses(operation: &mut Map<String, Value>, path: &str, access: Access) {
    if let Access::Tenant(permission) | Access::ApiKey(permission) = access {
        operation.insert("x-permission".to_owned(), json!(permission.as_str()));
    }
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    let responses = responses.as_object_mut().expect("responses are a map");
    let mut add = |status: &str, name: &str| {
        let reference = json!({"$ref": format!("#/components/responses/{name}")});
        responses.entry(status).or_insert(reference);
    };
    if access != Access::Public {
        add("401", "Unauthenticated");
        add("403", "Forbidden");
        add("429", "RateLimited");
    }
    if path.contains('{') {
        add("404", "NotFound");
    }
    add("default", "Problem");
}

/// What the application is sent.
fn webhooks() -> Value {
    let header = |name: &str, description: &str| {
        json!({"name": name, "in": "header", "required": true, "description": description,
               "schema": {"type": "string"}})
    };
    json!({"usageAlert": {"post": {
        "operationId": "usage_alert",
        "tags": ["Usage"],
        "summary": "A quota is used to 80, 100 or 120 %",
        "description": "Sent to `APPLICATION_WEBHOOK_URL`, signed as Standard Webhooks says, until \
                        it is answered 2xx. A redirect is a failure.",
        "security": [],
        "parameters": [
            header("webhook-id", "The alert's id: the same each time it is sent."),
            header("webhook-timestamp", "When it is sent, in seconds since 1970."),
            header("webhook-signature", "`v1,` and the HMAC-SHA256 of id, timestamp and body."),
        ],
        "requestBody": {"required": true, "content": {"application/cloudevents+json": {
            "schema": {"$ref": "#/components/schemas/UsageAlertEvent"}}}},
        "responses": {"2XX": {"description": "It was taken."}},
    }}})
}

fn components(components: &mut Value) {
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
    components["responses"] = json!({
        "Problem": problem("What is wrong; `code` says it to programs."),
        "Unauthenticated": problem("No credential, or none that holds."),
        "Forbidden": problem("The credential does not have the permission."),
        "NotFound": problem("There is none, or it is another organization's."),
        "RateLimited": rate_limited,
    });
    components["parameters"] = json!({"IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": "Makes the request safe to send again: for a day, the same key and request \
                        get the first answer again, with `Idempotent-Replayed: true`.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    }});
    components["securitySchemes"] = json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `POST /api/auth/login`, or an API key.",
        },
        "stripeSignature": {
            "type": "apiKey",
            "in": "header",
            "name": "Stripe-Signature",
            "description": "Made by Stripe with the endpoint's signing secret.",
        },
    });
}
