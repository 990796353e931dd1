//! Every route of the description, with another organization's ids in every
//! place that takes one, and with our credentials of every kind.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Map, Value, json};
use valuecanvas_billing::app::api;
use valuecanvas_billing::config::{Rates, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use super::probes;
use super::world::{SECRET, THEIR_KEY, THEM, US, World};
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::service::Options;

/// By which others say whose a request is; ours looks at none of it.
const HEADERS: [&str; 7] = [
    "x-organization",
    "x-organization-id",
    "x-tenant-id",
    "x-org-id",
    "x-forwarded-user",
    "x-original-url",
    "idempotency-key",
];
const NAMES: [&str; 5] = [
    "organizationId",
    "organization_id",
    "tenantId",
    "id",
    "actor",
];

/// It ends the session; guessing has tests of its own; Stripe's endpoint takes
/// no credential; and metrics name the catalogue's metrics, for which the
/// secret stands in the rows of this world.
const APART: [&str; 4] = [
    "/api/auth/logout",
    "/api/auth/login",
    "/api/billing/webhooks/stripe",
    "/metrics",
];

/// An operation, with what it takes.
struct Operation {
    method: Method,
    path: String,
    query: Vec<String>,
    fields: Vec<String>,
}

impl Operation {
    fn takes_id(&self) -> bool {
        self.path.contains('{')
    }

    /// The path with this in the place of its parameters.
    fn with(&self, id: &str) -> String {
        let parts = self.path.split('/');
        let parts = parts.map(|part| if part.starts_with('{') { id } else { part });
        parts.collect::<Vec<_>>().join("/")
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, said) in item.as_object().unwrap() {
            let parameters = said["parameters"].as_array().into_iter().flatten();
            let query = parameters
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().unwrap().to_owned());
            let schema = &said["requestBody"]["content"]["application/json"]["schema"];
            let target = schema["$ref"].as_str().and_then(|at| at.strip_prefix('#'));
            let schema = target.map_or(schema, |at| document.pointer(at).unwrap());
            // Of several forms, the first.
            let first = schema["oneOf"][0]["$ref"].as_str();
            let first = first.and_then(|at| at.strip_prefix('#'));
            let schema = first.map_or(schema, |at| document.pointer(at).unwrap());
            let fields = schema["properties"].as_object().into_iter().flatten();
            found.push(Operation {
                method: Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap(),
                path: path.clone(),
                query: query.collect(),
                fields: fields.map(|(name, _)| name.clone()).collect(),
            });
        }
    }
    found.retain(|operation| !APART.contains(&&*operation.path));
    found
}

/// The service, our credentials, and all that is known of theirs.
struct Attack {
    world: World,
    service: TestService,
    credentials: Vec<String>,
    their_token: String,
    /// Ids of theirs that one may know, and a cursor that they were given.
    theirs: Vec<String>,
    before: String,
}

impl Attack {
    async fn begin() -> Self {
        let world = World::new().await;
        let rates = Rates {
            api_per_minute: 0,
            usage_per_minute: 0,
        };
        let surface = SurfaceConfig {
            rates,
            ..SurfaceConfig::default()
        };
        let options = Options {
            workers: 0,
            surface,
            ..Options::default()
        };
        // A service refuses to start with plans that its file lacks.
        world
            .db
            .execute(
                "UPDATE organizations SET plan_tier = 'free', base_plan_tier = 'free';
                 UPDATE billing_subscriptions SET plan_tier = 'standard'",
            )
            .await;
        let service = TestService::on(world.db.clone(), options).await;
        let mut credentials = Vec::new();
        for role in [Role::Owner, Role::BillingManager, Role::Member] {
            credentials.push(service.token(US, role).await);
        }
        credentials.push(service.api_key(US, &Permission::ALL).await);
        credentials.push(service.service_key(&Permission::ALL).await);
        let their_token = service.token(THEM, Role::Owner).await;
        let before = world.db.value(&world.their_state()).await;
        let mut attack = Self {
            theirs: known_ids(&world).await,
            world,
            service,
            credentials,
            their_token,
            before,
        };
        let page = attack.service.get("/api/billing/invoices?limit=1");
        let page = page.bearer_auth(&attack.their_token).send().await.unwrap();
        let page: Value = page.json().await.unwrap();
        let cursor = page["nextCursor"].as_str().expect("they have two invoices");
        attack.theirs.push(cursor.to_owned());
        attack
    }

    /// Sends it; what is wrong with the answer.
    async fn send(&self, operation: &Operation, request: RequestBuilder) -> Result<u16, String> {
        let said = format!("{request:?}");
        let at = format!("{} {}: {said}", operation.method, operation.path);
        let answer = request.send().await.map_err(|e| format!("{at}: {e}"))?;
        let status = answer.status().as_u16();
        let text = in_full(answer).await;
        if text.contains(SECRET) || (status < 300 && text.contains(&THEM.to_string())) {
            return Err(format!("{at} tells {text}"));
        }
        let operators = operation.path.starts_with("/api/operator/");
        if (operators && status < 400) || status == 500 {
            return Err(format!("{at}: {status} {text}"));
        }
        Ok(status)
    }

    fn request(&self, operation: &Operation, path: &str, credential: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.service.base);
        let request = self.service.client.request(operation.method.clone(), url);
        let request = request.bearer_auth(credential);
        // It reads what was used before it looks for what was held.
        let request = match operation.path.ends_with("/confirm") {
            true => request.json(&json!({"quantity": 1})),
            false => request,
        };
        // A service key that acts for us.
        let selects = !operation.path.starts_with("/api/organizations");
        match selects && credential.starts_with("vcp_") {
            true => request.header("x-organization", US.to_string()),
            false => request,
        }
    }

    async fn end(self) {
        let after = self.world.db.value(&self.world.their_state()).await;
        assert_eq!(after, self.before, "their rows are as they were");
    }
}

/// The answer, headers and all.
async fn in_full(answer: Response) -> String {
    let headers = format!("{:?}", answer.headers());
    headers + &answer.text().await.unwrap_or_default()
}

/// The values of their keys, besides those that hold the secret.
async fn known_ids(world: &World) -> Vec<String> {
    let mut known = vec![THEM.to_string(), THEIR_KEY.to_owned()];
    for table in &world.tables {
        let ids = table.columns.iter().filter(|name| name.ends_with("id"));
        for column in ids {
            let ids = format!(
                "SELECT string_agg(DISTINCT {column}::text, ' ') FROM {}
                  WHERE {} = '{THEM}' AND {column}::text NOT LIKE '%{SECRET}%'",
                table.name,
                table.owner()
            );
            known.extend(world.db.value(&ids).await.split(' ').map(str::to_owned));
        }
    }
    known.retain(|id| !id.is_empty());
    known.sort();
    known.dedup();
    known
}

#[tokio::test]
async fn their_ids_lead_nowhere_on_any_route() {
    let attack = Attack::begin().await;
    let operations = operations(&api::document());
    let mut failed = Vec::new();
    let mut tried = 0;
    for operation in operations.iter().filter(|operation| operation.takes_id()) {
        for credential in &attack.credentials {
            for id in &attack.theirs {
                let request = attack.request(operation, &operation.with(id), credential);
                match attack.send(operation, request).await {
                    Ok(403 | 404) => tried += 1,
                    Ok(status) => failed.push(format!("{status}: {} {id}", operation.path)),
                    Err(wrong) => failed.push(wrong),
                }
            }
        }
    }
    assert_eq!(failed, [""; 0]);
    assert!(tried >= 400, "{tried}");
    attack.end().await;
}

#[tokio::test]
async fn nothing_of_theirs_comes_of_any_request() {
    let attack = Attack::begin().await;
    let operations = operations(&api::document());
    let mut dice = Dice::new(11);
    let mut failed = Vec::new();
    // Operators' routes answer none of them.
    let (mut asked, mut answered) = (0, 0);
    for n in 0..probes() / 2 {
        let operation = &operations[n % operations.len()];
        let request = any(&mut dice, &attack, operation);
        asked += usize::from(!operation.path.starts_with("/api/operator/"));
        match attack.send(operation, request).await {
            Ok(status) => answered += usize::from(status < 300),
            Err(wrong) => failed.push(wrong),
        }
    }
    assert_eq!(failed, [""; 0]);
    assert!(
        answered * 10 > asked,
        "most say nothing: {answered} of {asked}"
    );
    attack.end().await;
}

/// A request with something of theirs wherever it fits.
fn any(dice: &mut Dice, attack: &Attack, operation: &Operation) -> RequestBuilder {
    let id = &attack.theirs[dice.below(attack.theirs.len())];
    let id = match dice.below(6) {
        0 => format!("{id}%00"),
        1 => format!("..%2F{id}"),
        2 => id.to_uppercase(),
        3 => format!("{id}?organizationId={THEM}"),
        _ => id.clone(),
    };
    let credential = &attack.credentials[dice.below(attack.credentials.len())];
    let mut request = attack.request(operation, &operation.with(&id), credential);
    let value = |dice: &mut Dice| attack.theirs[dice.below(attack.theirs.len())].clone();
    for name in &operation.query {
        if dice.one_in(4) {
            request = request.query(&[(name, value(dice))]);
        }
    }
    if dice.one_in(5) {
        request = request.query(&[(dice.pick(&NAMES), value(dice))]);
    }
    if dice.one_in(3) {
        request = request.header(dice.pick(&HEADERS), value(dice));
    }
    if dice.one_in(8) {
        request = request.header("accept", "text/csv");
    }
    if operation.method != Method::GET {
        let mut body = Map::new();
        for name in &operation.fields {
            if dice.one_in(2) {
                let one = value(dice);
                let one = if dice.one_in(3) {
                    json!([one])
                } else {
                    json!(one)
                };
                body.insert(name.clone(), one);
            }
        }
        if dice.one_in(3) {
            body.insert(dice.pick(&NAMES).to_owned(), json!(value(dice)));
        }
        request = request.json(&body);
    }
    request
}

/// The secret is where it would be told, were the caller another one.
#[tokio::test]
async fn they_themselves_see_what_we_must_not() {
    let attack = Attack::begin().await;
    for path in [
        "/api/billing/invoices",
        "/api/billing/payment-methods",
        "/api/billing/audit-log",
        &format!("/api/billing/invoices/{THEIR_KEY}"),
    ] {
        let see = async |token: &str| {
            let answer = attack.service.get(path).bearer_auth(token).send().await;
            in_full(answer.unwrap()).await.contains(SECRET)
        };
        assert!(see(&attack.their_token).await, "{path}");
        assert!(!see(&attack.credentials[0]).await, "{path}");
    }
}
