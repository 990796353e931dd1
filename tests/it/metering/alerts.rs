//! Alerts at 80, 100 and 120 %, and the webhooks that tell of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use valuecanvas_billing::config::{Application, OutboundConfig, WebhookSecret};

use super::tenant::Tenant;
use crate::support::TestService;
use crate::support::libraries::{LANGUAGES, ask};
use crate::support::program::run_on;
use crate::support::service::Options;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The application, which takes webhooks, refusing the first `refusals`: with
/// 503, or by sending them to another address that takes everything.
#[derive(Clone, Default)]
struct Receiver {
    redirects: Option<StatusCode>,
    refusals: Arc<Mutex<usize>>,
    taken: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    /// Each answer waits for it.
    answers: Option<Arc<tokio::sync::Notify>>,
}

async fn take(State(app): State<Receiver>, request: Request) -> Response {
    if request.uri().path() == "/login" {
        return StatusCode::OK.into_response();
    }
    if app.refuses() {
        let status = app.redirects.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return (status, [("location", "/login")]).into_response();
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    app.taken.lock().unwrap().push((parts.headers, text));
    if let Some(answer) = &app.answers {
        answer.notified().await;
    }
    StatusCode::NO_CONTENT.into_response()
}

impl Receiver {
    fn refuses(&self) -> bool {
        let mut refusals = self.refusals.lock().unwrap();
        let refuses = *refusals > 0;
        *refusals = refusals.saturating_sub(1);
        refuses
    }

    async fn listen(&self) -> String {
        let router = axum::Router::new().fallback(take).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        url
    }

    async fn taken(&self, count: usize) -> Vec<(HeaderMap, String)> {
        for _ in 0..1_000 {
            if self.taken.lock().unwrap().len() >= count {
                return self.taken.lock().unwrap().clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {count} came", self.taken.lock().unwrap().len());
    }
}

async fn service_telling(app: &Receiver) -> TestService {
    let application = Application {
        url: app.listen().await.parse().unwrap(),
        secret: WebhookSecret::parse(SECRET).unwrap(),
    };
    TestService::with(Options {
        outbound: OutboundConfig {
            application: Some(application),
            ..OutboundConfig::default()
        },
        ..Options::default()
    })
    .await
}

/// The same, of nothing else.
async fn service_telling_of_quotas(app: &Receiver) -> TestService {
    let service = service_telling(app).await;
    for _ in 0..1_000 {
        if service.db.count("outbound_endpoints").await == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service
        .db
        .execute("UPDATE outbound_endpoints SET types = '{quota.threshold_reached,quota.exceeded}'")
        .await;
    service
}

#[tokio::test]
async fn each_threshold_is_told_of_once() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Alerted").await;
    for (quantity, thresholds) in [
        (799, vec![]),
        (1, vec![80]),
        (50, vec![80]),
        (400, vec![120, 100, 80]),
        (100, vec![120, 100, 80]),
    ] {
        tenant.consume(&service, "api_calls", quantity).await.ok();
        let listed = tenant.get(&service, "/api/billing/usage-alerts").await.ok();
        let found: Vec<i64> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| alert["threshold"].as_i64().unwrap())
            .collect();
        let mut sorted = found.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(sorted, thresholds);
    }
    let other = Tenant::of(&service, "Other").await;
    let theirs = other.get(&service, "/api/billing/usage-alerts").await.ok();
    assert_eq!(theirs["data"], json!([]));
}

#[tokio::test]
async fn an_alert_is_sent_signed_until_it_is_taken() {
    let app = Receiver::default();
    *app.refusals.lock().unwrap() = 1;
    let service = service_telling_of_quotas(&app).await;
    let tenant = Tenant::of(&service, "Told").await;
    tenant.consume(&service, "api_calls", 800).await.ok();
    let (headers, body) = app.taken(1).await.remove(0);
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/cloudevents+json");

    // As Standard Webhooks says, computed by another implementation.
    let signed = format!(
        "{}.{}.{body}",
        header("webhook-id"),
        header("webhook-timestamp")
    );
    let key = STANDARD
        .decode(SECRET.strip_prefix("whsec_").unwrap())
        .unwrap();
    let script = "import hmac,hashlib,base64,sys;\
                  print(base64.b64encode(hmac.new(bytes.fromhex(sys.argv[1]),sys.argv[2].encode(),hashlib.sha256).digest()).decode())";
    let python = std::process::Command::new("python3")
        .args(["-c", script, &hex::encode(key), &signed])
        .output()
        .unwrap();
    let expected = String::from_utf8(python.stdout).unwrap();
    assert_eq!(
        header("webhook-signature"),
        format!("v1,{}", expected.trim())
    );

    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["id"], header("webhook-id"));
    let data = &event["data"];
    assert_eq!(
        [
            &data["metric"],
            &data["threshold"],
            &data["usage"],
            &data["quota"]
        ],
        [&json!("api_calls"), &json!(80), &json!(800), &json!(1000)]
    );
    assert_eq!(data["organizationId"], tenant.organization.to_string());
    for _ in 0..200 {
        if service
            .db
            .count("usage_alerts WHERE delivered_at IS NOT NULL")
            .await
            == 1
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        service.db.value("SELECT attempts FROM usage_alerts").await,
        "2"
    );
}

#[tokio::test]
async fn what_was_given_up_is_kept_and_sent_again() {
    let app = Receiver::default();
    *app.refusals.lock().unwrap() = 1;
    let service = service_telling_of_quotas(&app).await;
    let tenant = Tenant::of(&service, "Silent").await;
    service
        .db
        .execute("ALTER TABLE outbound_deliveries ALTER attempts SET DEFAULT 7")
        .await;
    tenant.consume(&service, "api_calls", 800).await.ok();
    for _ in 0..1_000 {
        if service
            .db
            .count("usage_alerts WHERE failed_at IS NOT NULL")
            .await
            == 1
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listed = run_on(&service.db, &["usage", "alerts", "--json"]).await;
    let listed = listed.json();
    assert_eq!(listed[0]["threshold"], 80);
    assert!(
        listed[0]["error"].as_str().unwrap().contains("503"),
        "{listed}"
    );
    // What the service has locked, it gives back while the command waits.
    let resent = run_on(&service.db, &["usage", "alerts", "--resend"]).await;
    let said = resent.stdout.trim();
    assert_eq!(said, "`serve` will send 1 alert again", "{}", resent.stderr);
    app.taken(1).await;
}

/// Recorded as soon as the database is back, and not sent a second time when its
/// lease is over.
#[tokio::test]
async fn what_was_sent_while_the_database_went_away_is_recorded() {
    let answers = Arc::new(tokio::sync::Notify::new());
    let app = Receiver {
        answers: Some(answers.clone()),
        ..Receiver::default()
    };
    let service = service_telling_of_quotas(&app).await;
    let (admin, name) = (
        service.db.options("postgres").database("postgres"),
        &service.db.name,
    );
    let tenant = Tenant::of(&service, "Cut").await;
    tenant.consume(&service, "api_calls", 800).await.ok();
    app.taken(1).await;
    let mut admin = sqlx::ConnectOptions::connect(&admin).await.unwrap();
    for statement in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
        ),
        "SELECT pg_sleep(2)".to_owned(),
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
    ] {
        if statement.contains("pg_sleep") {
            answers.notify_one();
        }
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement));
        sqlx::Executor::execute(&mut admin, statement)
            .await
            .unwrap();
    }
    let delivered = "usage_alerts WHERE delivered_at IS NOT NULL";
    for _ in 0..2_000 {
        if service.db.count(delivered).await == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(service.db.count(delivered).await, 1);
}

#[tokio::test]
async fn a_redirect_takes_no_alert() {
    for status in [302, 307] {
        let app = Receiver {
            redirects: Some(StatusCode::from_u16(status).unwrap()),
            ..Receiver::default()
        };
        *app.refusals.lock().unwrap() = 1;
        let service = service_telling_of_quotas(&app).await;
        let tenant = Tenant::of(&service, "Redirected").await;
        tenant.consume(&service, "api_calls", 800).await.ok();
        // Sent again, to the address that is configured.
        app.taken(1).await;
        for _ in 0..500 {
            if service
                .db
                .count("usage_alerts WHERE delivered_at IS NOT NULL")
                .await
                == 1
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let attempts = "SELECT attempts FROM usage_alerts";
        assert_eq!(service.db.value(attempts).await, "2", "{status}");
    }
}

#[tokio::test]
async fn a_fraction_is_a_number_with_all_of_its_digits() {
    let app = Receiver::default();
    let service = service_telling_of_quotas(&app).await;
    let tenant = Tenant::of(&service, "Exact").await;
    tenant
        .set_quota(&service, "api_calls", "9007199254740993.5", None)
        .await;
    let body = json!({"metric": "api_calls", "quantity": "9007199254740991.0001", "consume": true});
    tenant
        .post(&service, super::tenant::CHECK, &body)
        .await
        .ok();
    for (_, text) in app.taken(1).await {
        assert!(text.contains(r#""usage":9007199254740991.0001,"#), "{text}");
        assert!(text.contains(r#""quota":9007199254740993.5,"#), "{text}");
    }
}

#[tokio::test]
async fn libraries_verify_an_alert_and_read_it() {
    let app = Receiver::default();
    let service = service_telling_of_quotas(&app).await;
    let tenant = Tenant::of(&service, "Told").await;
    tenant.consume(&service, "api_calls", 800).await.ok();
    let (headers, body) = app.taken(1).await.remove(0);
    let headers: Value = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), json!(value.to_str().unwrap())))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for language in LANGUAGES {
        let mut request =
            json!({"action": "receive", "secret": SECRET, "headers": headers, "body": body});
        let event = ask(language, "usage", &request).expect("it verifies");
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["id"], headers["webhook-id"], "{language}");
        assert_eq!(event["data"]["metric"], "api_calls", "{language}");
        request["body"] = json!(body.replace("api_calls", "api_cells"));
        assert!(
            ask(language, "usage", &request).is_err(),
            "{language} checks what it is given"
        );
    }
}
