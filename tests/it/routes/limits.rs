//! What validation lets in, the database takes: values at and beyond the limits
//! of its types, through every route that takes input. `VCB_PROBES` says how
//! many requests.

mod events;

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::{Access, Route};
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::metering::tenant::{Answer, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::dice::Dice;

fn probes() -> usize {
    let asked = std::env::var("VCB_PROBES").ok();
    asked.map_or(1_000, |count| {
        count.parse().expect("VCB_PROBES is a number")
    })
}

/// As they stand in JSON.
const TEXTS: [&str; 15] = [
    r#""""#,
    r#""a""#,
    r#""\u0000""#,
    r#""a\u0000b""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\\u0000""#,
    r#""\u001f\u007f\u0085""#,
    r#""\uffff\ufffe""#,
    r#""'; DROP TABLE users; --""#,
    r#""é 𝄞 ١""#,
    r#""unlimited""#,
    r#""NaN""#,
    r#""00000000-0000-0000-0000-000000000000""#,
    r#""9223372036854775808""#,
];
const NUMBERS: [&str; 29] = [
    "0",
    "-0",
    "-1",
    "0.5",
    "0.0001",
    "0.00001",
    "32767",
    "32768",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "253402207200",
    "253402300799",
    "253402300800",
    "-62135596800",
    "-62135596801",
    "-210866803201",
    "-377705023202",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "9999999999999999.9999",
    "12345678901234567890",
    "99999999999999999999",
    "100000000000000000000",
    "1e400",
    "1e-20000",
];
const TIMES: [&str; 14] = [
    "-009999-01-03T00:00:00Z",
    "-004714-11-23T00:00:00Z",
    "-004713-11-24T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0000-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1582-10-10T00:00:00Z",
    "1969-12-31T23:59:59.9999999Z",
    "2026-12-31T23:59:60Z",
    "9999-12-30T22:00:00.999999999Z",
    "9999-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "294276-12-31T23:59:59Z",
];
const QUERIES: [&str; 12] = [
    "",
    "%00",
    "a%00b",
    "%ff",
    "%ed%a0%80",
    "%27%20OR%201=1",
    "-1",
    "0",
    "9223372036854775808",
    "99999999999999999999",
    "true",
    "00000000-0000-0000-0000-000000000000",
];

/// Stands for a value that `serde_json` could not hold.
const MARK: &str = "@value@";

struct Chance(Dice);

impl Chance {
    /// Any value.
    fn value(&mut self) -> String {
        match self.0.below(12) {
            0..=3 => self.0.pick(&NUMBERS).to_owned(),
            4 => format!("\"{}\"", self.0.pick(&NUMBERS)),
            5..=6 => self.0.pick(&TEXTS).to_owned(),
            7 => {
                let length = self.0.pick(&[255, 256, 3_000, 20_000]);
                format!("\"{}\"", self.noise(length))
            }
            8..=9 => format!("\"{}\"", self.0.pick(&TIMES)),
            10 => self.0.pick(&["null", "true", "[]", "{}"]).to_owned(),
            _ => format!("{{\"a\":{},\"b\":[{}]}}", self.scalar(), self.scalar()),
        }
    }

    /// Letters that do not compress.
    fn noise(&mut self, length: usize) -> String {
        let letter = |_| char::from(self.0.pick(b"abcdefghijklmnopqrstuvwxyz0123456789"));
        (0..length).map(letter).collect()
    }

    fn scalar(&mut self) -> &'static str {
        if self.0.one_in(2) {
            self.0.pick(&NUMBERS)
        } else {
            self.0.pick(&TEXTS)
        }
    }

    /// An object of `fields`, of which one or two are odd, and some absent.
    fn object(&mut self, fields: &[(&str, &str)]) -> String {
        let odd = [self.0.below(fields.len().max(1)), self.0.below(8)];
        let mut members = Vec::new();
        for (n, (name, usual)) in fields.iter().enumerate() {
            if self.0.one_in(12) {
                continue;
            }
            let value = if odd.contains(&n) {
                self.value()
            } else {
                usual.replace("{id}", &Uuid::now_v7().to_string())
            };
            members.push(format!("\"{name}\":{value}"));
        }
        format!("{{{}}}", members.join(","))
    }

    fn query(&mut self, names: &[&str]) -> String {
        let mut pairs = Vec::new();
        for name in names {
            if self.0.one_in(2) {
                let value = match self.0.below(3) {
                    0 => self.0.pick(&TIMES).replace('+', "%2B"),
                    1 => "9".repeat(self.0.pick(&[3, 300, 3_000])),
                    _ => self.0.pick(&QUERIES).to_owned(),
                };
                pairs.push(format!("{name}={value}"));
            }
        }
        format!("?{}", pairs.join("&"))
    }
}

const EVENT: [(&str, &str); 5] = [
    ("id", "\"{id}\""),
    ("metric", "\"api_calls\""),
    ("quantity", "1"),
    ("occurredAt", "null"),
    ("metadata", "{}"),
];

/// The members of a route's body, with usual values.
fn body_of(path: &str) -> &'static [(&'static str, &'static str)] {
    match path {
        EVENTS => &EVENT,
        "/api/billing/usage/check" => &[
            ("id", "\"{id}\""),
            ("metric", "\"llm_tokens\""),
            ("quantity", "1"),
            ("consume", "true"),
        ],
        "/api/billing/subscription" => &[("planTier", "\"standard\""), ("trialDays", "1")],
        "/api/billing/subscription/preview" => &[("planTier", "\"standard\"")],
        "/api/auth/login" => &[("email", "\"a@example.com\""), ("password", "\"test123\"")],
        "/api/agents/execute" => &[("agentId", "\"a\""), ("input", "{}")],
        "/api/operator/dead-letters/replay" => {
            &[("type", "\"a\""), ("limit", "5"), ("cursor", "null")]
        }
        "/api/operator/bulk-actions" => &[
            ("action", "\"replay_dead_letters\""),
            ("filter", "{}"),
            ("through", "null"),
        ],
        "/api/operator/organizations/{organization}/quotas/{metric}" => {
            &[("limit", "\"5000\""), ("overLimit", "\"overage\"")]
        }
        "/api/operator/organizations/{organization}/features/{feature}" => &[
            ("value", "true"),
            ("reason", "\"a promise\""),
            ("expiresAt", "null"),
        ],
        "/api/operator/users" => &[
            ("email", "\"a@example.com\""),
            ("role", "\"operator.read\""),
        ],
        "/api/operator/service-keys" | "/api/operator/organizations/{organization}/api-keys" => {
            &[("scopes", "[\"usage.write\"]"), ("name", "\"a\"")]
        }
        "/api/operator/operator-keys" => &[("role", "\"operator.read\""), ("name", "\"a\"")],
        "/api/organizations/{externalId}" => &[
            ("name", "\"Acme\""),
            ("email", "\"billing@acme.example\""),
            ("metadata", "{\"note\": \"a\"}"),
            ("planTier", "\"free\""),
        ],
        _ => &[],
    }
}

fn query_of(path: &str) -> &'static [&'static str] {
    match path {
        "/api/billing/audit-log" => &[
            "action",
            "actor",
            "resourceType",
            "from",
            "to",
            "limit",
            "cursor",
        ],
        "/api/operator/webhook-events" => &[
            "type",
            "organizationId",
            "processed",
            "since",
            "until",
            "limit",
            "cursor",
        ],
        "/api/operator/organizations/{organization}/timeline" => &["kind", "limit", "cursor"],
        "/api/operator/bulk-actions/matching" => &[
            "action",
            "type",
            "organizationId",
            "reason",
            "since",
            "until",
        ],
        "/api/operator/dead-letters" => &["type", "organizationId", "limit", "cursor"],
        "/api/operator/users" => &["organizationId", "limit", "cursor"],
        "/api/operator/explain" => &[
            "event",
            "invoice",
            "requestId",
            "organizationId",
            "metric",
            "feature",
            "at",
        ],
        "/api/enforce" => &["amount", "id", "consume", "feature"],
        "/api/billing/features" => &["sources"],
        "/api/organizations" => &["query", "limit", "cursor"],
        "/api/billing/subscription" => &["immediately"],
        _ => &["limit", "cursor"],
    }
}

/// Who calls.
struct Callers {
    tenant: Tenant,
    user: String,
    operator: String,
    product: String,
    routes: Vec<Route>,
}

impl Callers {
    async fn of(service: &TestService) -> Self {
        let tenant = Tenant::of(service, "Probing").await;
        Self {
            user: service.token(tenant.organization, Role::Owner).await,
            operator: service.token(Uuid::nil(), Role::Operator).await,
            product: service.service_key(&Permission::OF_SERVICE).await,
            routes: api::table(),
            tenant,
        }
    }

    fn credential(&self, access: Access) -> Option<&str> {
        match access {
            Access::Public | Access::StripeSignature | Access::Console | Access::Portal => None,
            Access::Token => Some(&self.user),
            Access::Operator => Some(&self.operator),
            Access::Tenant(_) | Access::EachTenant(_) | Access::ApiKey(_) => Some(&self.tenant.key),
            Access::Service(_) => Some(&self.product),
        }
    }
}

async fn probe(
    service: &TestService,
    callers: &Callers,
    chance: &mut Chance,
) -> Result<(), String> {
    let route = loop {
        let route = &callers.routes[chance.0.below(callers.routes.len())];
        // Deliveries and pages have tests of their own, and a token is to stay good.
        let page = route.method.is_some() && route.operation.is_none();
        if !page && route.access != Access::StripeSignature && !route.path.ends_with("/logout") {
            break route;
        }
    };
    let template = route.path.as_str();
    let method = route.method.clone().unwrap_or(Method::GET);
    let id = chance.0.pick(&QUERIES);
    let metric = if chance.0.one_in(2) { "api_calls" } else { id };
    let mut path = template
        .replace("{organization}", &callers.tenant.organization.to_string())
        .replace("{metric}", metric)
        .replace("{externalId}", if id.is_empty() { "a" } else { id })
        .replace("{user}", if id.is_empty() { "a" } else { id })
        .replace("{key}", if id.is_empty() { "a" } else { id })
        .replace("{*rest}", "below")
        .replace("{id}", if id.is_empty() { "a" } else { id });
    if method == Method::GET || method == Method::DELETE {
        path += &chance.query(query_of(template));
        if template == "/api/enforce" {
            path += "&metric=api_calls";
        }
    }
    let mut request = service
        .client
        .request(method.clone(), format!("{}{path}", service.base));
    if let Some(credential) = callers.credential(route.access) {
        request = request.bearer_auth(credential);
    }
    let mut body = String::new();
    if method == Method::POST || method == Method::PUT {
        body = chance.object(body_of(template));
        request = request
            .header("content-type", "application/json")
            .body(body.clone());
    }
    for name in [
        "idempotency-key",
        "user-agent",
        "traceparent",
        "x-request-id",
    ] {
        let value: &[u8] = chance.0.pick(&[
            b"\x80\xff".as_slice(),
            b"a\tb",
            b"' OR 1=1",
            b"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-ff",
            &[b'x'; 255],
        ]);
        if chance.0.one_in(6) {
            request = request.header(name, HeaderValue::from_bytes(value).unwrap());
        }
    }
    let answer = Answer::of(request.send().await.unwrap()).await;
    // There is no Stripe here.
    let expected = answer.status < 500 || answer.problem() == (503, "stripe_not_configured");
    if expected {
        return Ok(());
    }
    Err(format!(
        "{method} {path} {body:.300}: {:?}",
        answer.problem()
    ))
}

/// A batch with odd events among good ones, which are counted whatever the odd
/// ones are.
async fn batch(service: &TestService, tenant: &Tenant, chance: &mut Chance) -> Result<(), String> {
    let good = format!(
        "{{\"id\":\"{}\",\"metric\":\"agent_executions\",\"quantity\":1}}",
        Uuid::now_v7()
    );
    let cloud = chance.0.one_in(3);
    let odd = |chance: &mut Chance| {
        if cloud {
            let data = chance.object(&[("quantity", "1"), ("metadata", "{}")]);
            let rest = chance.object(&[("id", "\"{id}\""), ("time", "\"2026-11-28T12:00:00Z\"")]);
            let rest = &rest[1..rest.len() - 1];
            let comma = if rest.is_empty() { "" } else { "," };
            format!(
                "{{\"specversion\":\"1.0\",\"type\":\"storage_gb\",\"source\":\"/s\",\"data\":{data}{comma}{rest}}}"
            )
        } else {
            chance.object(&EVENT)
        }
    };
    let wrap = |event: &str| {
        if cloud {
            let event: Value = serde_json::from_str(event).unwrap();
            json!({"specversion": "1.0", "type": "agent_executions", "source": "/s",
                   "id": event["id"], "data": {"quantity": 1}})
            .to_string()
        } else {
            event.to_owned()
        }
    };
    let good = wrap(&good);
    let events = [odd(chance), good.clone(), odd(chance), good, odd(chance)];
    let (kind, body) = if cloud {
        (
            "application/cloudevents-batch+json",
            format!("[{}]", events.join(",")),
        )
    } else {
        ("application/json", format!("[{}]", events.join(",")))
    };
    let answer = tenant.post_raw(service, EVENTS, kind, body.clone()).await;
    let status = |n: usize| answer.body["results"][n]["status"].clone();
    if (answer.status, status(1), status(3)) == (200, json!("recorded"), json!("duplicate")) {
        return Ok(());
    }
    Err(format!("{body:.600}: {answer:?}"))
}

#[tokio::test]
async fn whatever_validation_lets_in_the_database_takes() {
    let service = TestService::start().await;
    let mut chance = Chance(Dice::new(19));
    let mut faults = Vec::new();
    let mut callers = Callers::of(&service).await;
    for n in 0..probes() {
        if n % 100 == 99 {
            // Limits of rates, and totals that are full, would hide the rest.
            callers = Callers::of(&service).await;
        }
        let probed = if n % 4 == 0 {
            batch(&service, &callers.tenant, &mut chance).await
        } else {
            probe(&service, &callers, &mut chance).await
        };
        faults.extend(probed.err());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Nothing spoiled a group, so as to be counted one by one.
    let aside = service.metric("usage_requests_set_aside_total").await;
    assert_eq!(aside, Some(0));
    let differ = "SELECT count(*) FROM usage_totals t
                   WHERE metric IN ('api_calls', 'llm_tokens', 'agent_executions')
                     AND total <> (SELECT coalesce(sum(quantity), 0) FROM usage_events e
                                    WHERE e.organization_id = t.organization_id
                                      AND e.metric = t.metric AND e.period_start = t.period_start)";
    assert_eq!(service.db.value(differ).await, "0");
}
