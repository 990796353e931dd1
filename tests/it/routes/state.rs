//! Everything about an organization in one read, with its version.

use std::time::Duration;

use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::quotas;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::subscriptions::world::{VISA, World};
use crate::support::TestService;
use crate::support::program::run_on;

const STATE: &str = "/api/billing/state";

struct Reader {
    organization: Uuid,
    key: String,
}

struct Seen {
    status: StatusCode,
    tag: String,
    body: Value,
}

impl Seen {
    #[track_caller]
    fn state(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }
}

impl Reader {
    async fn of(service: &TestService, organization: Uuid) -> Self {
        let key = service
            .api_key(organization, &[Permission::BillingRead])
            .await;
        Self { organization, key }
    }

    async fn ask(&self, service: &TestService, query: &str, kept: Option<&str>) -> Seen {
        let url = format!("{}{STATE}{query}", service.base);
        let mut request = service.client.get(url).bearer_auth(&self.key);
        if let Some(kept) = kept {
            request = request.header(header::IF_NONE_MATCH, kept);
        }
        let response = request.send().await.unwrap();
        let tag = response.headers().get(header::ETAG);
        Seen {
            status: response.status(),
            tag: tag.map_or_else(String::new, |tag| tag.to_str().unwrap().to_owned()),
            body: serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default(),
        }
    }

    async fn get(&self, service: &TestService, path: &str) -> Value {
        let url = format!("{}{path}", service.base);
        let response = service.client.get(url).bearer_auth(&self.key).send().await;
        response.unwrap().json().await.unwrap()
    }

    async fn state(&self, service: &TestService) -> Value {
        self.ask(service, "", None).await.state()
    }
}

async fn command(service: &TestService, arguments: &[&str]) {
    let ran = run_on(&service.db, arguments).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

async fn set_projects(service: &TestService, reader: &Reader, value: usize) {
    let (organization, value) = (reader.organization.to_string(), value.to_string());
    let arguments = [
        "features",
        "set",
        "--organization",
        &organization,
        "--feature",
        "projects",
        "--value",
        &value,
        "--reason",
        "a promise",
    ];
    command(service, &arguments).await;
}

#[tokio::test]
async fn all_of_it_is_there_and_each_change_has_a_higher_version() {
    let world = World::start().await;
    let service = &world.service;
    let reader = Reader::of(service, world.organization).await;
    let free = reader.state(service).await;
    assert_eq!(free["organization"]["id"], json!(world.organization));
    assert_eq!(
        free["plan"],
        json!({"tier": "free", "version": null, "interval": null, "seats": null, "addons": []})
    );
    assert_eq!(free["subscription"], Value::Null);
    assert_eq!(
        free["payment"],
        json!({"status": "none", "problem": null, "accessEndsAt": null})
    );
    assert_eq!(free["features"]["projects"], 3);
    assert!(free["quotas"].as_array().unwrap().len() > 3);

    world.customer(VISA).await;
    world.create("standard").await.ok();
    let paid = reader.state(service).await;
    assert!(paid["stateVersion"].as_i64() > free["stateVersion"].as_i64());
    assert_eq!(paid["plan"]["tier"], "standard");
    assert_eq!(paid["payment"]["status"], "paid");
    assert_eq!(paid["subscription"], world.current().await);
    let quotas = reader.get(service, "/api/billing/quotas").await;
    assert_eq!(paid["quotas"], quotas["data"]);
    let features = reader.get(service, "/api/billing/features").await;
    assert_eq!(paid["features"], features);
    world.settle().await;

    // What is remembered is what a replica reads that remembers nothing.
    let mut version = paid["stateVersion"].as_i64();
    let organization = world.organization.to_string();
    let quota = [
        "quotas",
        "set",
        "--organization",
        &organization,
        "--metric",
        "api_calls",
        "--limit",
        "7",
    ];
    for change in ["feature", "quota", "cancel", "reactivate", "end"] {
        match change {
            "feature" => set_projects(service, &reader, 50).await,
            "quota" => command(service, &quota).await,
            "cancel" => drop(world.cancel(false).await.ok()),
            "reactivate" => drop(world.reactivate().await.ok()),
            _ => drop(world.cancel(true).await.ok()),
        }
        let seen = reader.state(service).await;
        let fresh = world.beside().await;
        assert_eq!(reader.state(&fresh).await, seen, "{change}");
        assert!(seen["stateVersion"].as_i64() > version, "{change}: {seen}");
        version = seen["stateVersion"].as_i64();
    }
    assert_eq!(reader.state(service).await["plan"]["tier"], "free");
}

#[tokio::test]
async fn what_changes_on_one_replica_is_read_on_another() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let reader = Reader::of(&service, service.organization("Read").await).await;
    let rounds = std::env::var("VCB_OPERATIONS").map_or(20, |rounds| rounds.parse().unwrap());
    let mut before = reader.ask(&other, "", None).await;
    for round in 1..=rounds {
        let kept = before.tag.clone();
        let same = reader.ask(&other, "", Some(&kept)).await;
        assert_eq!(
            (same.status, same.tag),
            (StatusCode::NOT_MODIFIED, kept.clone())
        );
        // As an operator's command does, without a process for each.
        service
            .db
            .execute(&format!(
                "WITH entry AS (SELECT log_billing_action('{org}', 'feature_set', 'system',
                                                         p_resource_type => 'feature'))
                 INSERT INTO feature_overrides (organization_id, feature, value, reason, set_by)
                 SELECT '{org}', 'projects', '{round}', 'a promise', 'tests' FROM entry
                 ON CONFLICT (organization_id, feature) DO UPDATE SET value = excluded.value",
                org = reader.organization
            ))
            .await;
        let now = reader.ask(&other, "", Some(&kept)).await;
        assert_eq!(now.status, 200, "a stale 304");
        assert_eq!(now.body["features"]["projects"], json!(round));
        before = now;
    }
}

#[tokio::test]
async fn who_waits_is_answered_when_something_has_changed() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let reader = Reader::of(&service, service.organization("Waits").await).await;
    let version = reader.state(&service).await["stateVersion"].clone();
    let wait = |secs: u8| format!("?after={version}&wait={secs}");
    let none = reader.ask(&service, &wait(1), None).await;
    assert_eq!(none.status, 204);
    assert_eq!(
        reader
            .ask(&service, &format!("?after={version}"), None)
            .await
            .status,
        204
    );
    let query = wait(30);
    let (asked, ()) = tokio::join!(reader.ask(&other, &query, None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        set_projects(&service, &reader, 9).await;
    });
    let seen = asked.state();
    assert_eq!(seen["features"]["projects"], 9);
    assert!(seen["stateVersion"].as_i64() > version.as_i64());
    // Who is behind waits for nothing.
    assert_eq!(reader.ask(&service, &wait(30), None).await.status, 200);
}

#[tokio::test]
async fn nobody_waits_for_a_service_that_stops() {
    let service = TestService::intake_only().await;
    let mut other = TestService::beside(&service).await;
    let reader = Reader::of(&service, service.organization("Stops").await).await;
    let version = reader.state(&service).await["stateVersion"].clone();
    let url = format!("{}{STATE}?after={version}&wait=30", other.base);
    let asking = other.client.get(url).bearer_auth(&reader.key).send();
    let asking = tokio::spawn(asking);
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.stop().await;
    assert_eq!(asking.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn an_override_that_ends_is_gone_at_its_time() {
    let service = TestService::intake_only().await;
    let reader = Reader::of(&service, service.organization("Ends").await).await;
    let before = reader.state(&service).await;
    service
        .db
        .execute(&format!(
            "SELECT log_billing_action('{org}', 'feature_set', 'system', p_resource_type => 'feature');
             INSERT INTO feature_overrides (organization_id, feature, value, reason, set_by, expires_at)
             VALUES ('{org}', 'projects', '77', 'a trial', 'tests', now() + interval '2 seconds')",
            org = reader.organization
        ))
        .await;
    let during = reader.ask(&service, "", None).await;
    assert_eq!(during.body["features"]["projects"], 77);
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let after = reader.ask(&service, "", Some(&during.tag)).await.state();
    assert_eq!(after["features"], before["features"]);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let service = TestService::intake_only().await;
    let reader = Reader::of(&service, service.organization("Asks").await).await;
    for (query, code) in [
        ("?after=-1", "invalid_query"),
        ("?after=one", "invalid_query"),
        ("?wait=3", "invalid_query"),
        ("?after=0&wait=31", "invalid_query"),
        ("?after=0&wait=-1", "invalid_query"),
        ("?after=9223372036854775807", "unknown_state_version"),
        ("?before=1", "unknown_field"),
    ] {
        let refused = reader.ask(&service, query, None).await;
        let seen = (refused.status.as_u16(), refused.body["code"].as_str());
        assert_eq!(seen, (400, Some(code)), "{query}: {}", refused.body);
    }
    // Another organization's version is above ours, or nothing.
    let other = Reader::of(&service, service.organization("Other").await).await;
    set_projects(&service, &other, 5).await;
    let theirs = other.state(&service).await["stateVersion"].clone();
    let refused = reader
        .ask(&service, &format!("?after={theirs}"), None)
        .await;
    assert!([400, 204].contains(&refused.status.as_u16()));
}

/// What follows the catalogue, or a coupon's terms, is entered nowhere.
#[tokio::test]
async fn what_is_entered_nowhere_raises_the_version_too() {
    let service = TestService::intake_only().await;
    let reader = Reader::of(&service, service.organization("Follows").await).await;
    service
        .db
        .execute(
            "UPDATE usage_quotas SET quota = 1 WHERE metric = 'api_calls';
             UPDATE organizations SET unentered_changes = unentered_changes + 1",
        )
        .await;
    let before = reader.ask(&service, "", None).await;
    let quota = |state: &Value| {
        let quotas = state["quotas"].as_array().unwrap();
        let quota = quotas.iter().find(|quota| quota["metric"] == "api_calls");
        quota.unwrap()["quota"].clone()
    };
    assert_eq!(quota(&before.body), 1);
    let catalogue = Catalogue::load(None).unwrap();
    let applied = quotas::apply_catalogue(&service.db.service_pool(), &catalogue).await;
    assert!(applied.unwrap().changed > 0);
    let after = reader.ask(&service, "", Some(&before.tag)).await.state();
    assert_ne!(quota(&after), 1);
    assert!(after["stateVersion"].as_i64() > before.body["stateVersion"].as_i64());
}

#[tokio::test]
async fn a_key_that_is_revoked_while_it_waits_reads_no_more() {
    let service = TestService::intake_only().await;
    let reader = Reader::of(&service, service.organization("Revoked").await).await;
    let version = reader.state(&service).await["stateVersion"].clone();
    let organization = reader.organization.to_string();
    let key = service.db.value("SELECT id FROM api_keys").await;
    let query = format!("?after={version}&wait=30");
    let (asked, ()) = tokio::join!(reader.ask(&service, &query, None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        command(
            &service,
            &["api-keys", "revoke", &key, "--organization", &organization],
        )
        .await;
    });
    assert_eq!(asked.status, 401, "{}", asked.body);
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_reads_no_more() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Logged out").await;
    let key = service.token(organization, Role::Member).await;
    let reader = Reader { organization, key };
    let version = reader.state(&service).await["stateVersion"].clone();
    let query = format!("?after={version}&wait=30");
    let (asked, ()) = tokio::join!(reader.ask(&service, &query, None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let url = format!("{}/api/auth/logout", service.base);
        let request = service.client.post(url).bearer_auth(&reader.key);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let another = Reader {
            organization,
            key: String::new(),
        };
        set_projects(&service, &another, 7).await;
    });
    assert_eq!(asked.status, 401, "{}", asked.body);
}
