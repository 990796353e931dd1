//! An organization and what its programs call with.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::audit::Actor;
use valuecanvas_billing::catalogue::{Catalogue, OverLimit};
use valuecanvas_billing::metering::quotas::{self, QuotaLimit, SetQuota};
use valuecanvas_billing::tenancy::auth::Permission;

use crate::support::TestService;

pub const EVENTS: &str = "/api/billing/usage/events";
pub const CHECK: &str = "/api/billing/usage/check";
pub const EXECUTE: &str = "/api/agents/execute";

pub struct Tenant {
    pub organization: Uuid,
    pub key: String,
}

/// An answer: status, headers and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    pub fn problem(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:#?}");
        self.body
    }
}

impl Tenant {
    pub async fn of(service: &TestService, name: &str) -> Self {
        let organization = service.organization(name).await;
        let key = service.api_key(organization, &Permission::ALL).await;
        Self { organization, key }
    }

    pub async fn send(
        &self,
        service: &TestService,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}{path}", service.base);
        let mut request = service.client.request(method, url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn post(&self, service: &TestService, path: &str, body: &Value) -> Answer {
        self.send(service, Method::POST, path, Some(body)).await
    }

    pub async fn get(&self, service: &TestService, path: &str) -> Answer {
        self.send(service, Method::GET, path, None).await
    }

    /// Posts a text as it is.
    pub async fn post_raw(
        &self,
        service: &TestService,
        path: &str,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = service.post(path).bearer_auth(&self.key);
        let request = request.header("content-type", kind).body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn consume(&self, service: &TestService, metric: &str, quantity: i64) -> Answer {
        let body = json!({"metric": metric, "quantity": quantity, "consume": true});
        self.post(service, CHECK, &body).await
    }

    /// A call, and what it used: that is counted after the answer.
    pub async fn execute(&self, service: &TestService) -> Answer {
        let body = json!({"agentId": "test", "input": "test"});
        let answer = self.post(service, EXECUTE, &body).await;
        let held = format!(
            "usage_reservations WHERE organization_id = '{}' AND settled_at IS NULL",
            self.organization
        );
        for _ in 0..1_000 {
            if service.db.count(&held).await == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        answer
    }

    pub async fn set_quota(
        &self,
        service: &TestService,
        metric: &str,
        limit: &str,
        over_limit: Option<OverLimit>,
    ) {
        let command = SetQuota {
            reason: None,
            expires_at: None,
            organization_id: self.organization,
            metric: metric.to_owned(),
            limit: QuotaLimit::parse(limit).unwrap(),
            over_limit,
            actor: Actor::System,
            client: None,
        };
        let catalogue = Catalogue::load(None).unwrap();
        quotas::set(&service.db.service_pool(), &catalogue, &command)
            .await
            .unwrap();
    }

    /// The usage of a metric, as the API shows it.
    pub async fn usage(&self, service: &TestService, metric: &str) -> Value {
        let path = format!("/api/billing/usage/{metric}");
        self.get(service, &path).await.ok()
    }

    /// What `usage_totals` has of a metric.
    pub async fn total(&self, service: &TestService, metric: &str) -> String {
        let sql = format!(
            "SELECT trim_scale(sum(total)) FROM usage_totals WHERE organization_id = '{}' AND metric = '{metric}'",
            self.organization
        );
        service.db.value(&sql).await
    }
}
