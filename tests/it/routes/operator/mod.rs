//! `/api/operator`: what operators see and do across organizations, and what
//! the audit log has of it.

mod access;
mod bulk;
mod dead_letters;
mod events;
mod features;
mod keys;
mod looks;
mod organizations;
mod quotas;
mod sessions;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::events::{event, subscription};
use crate::support::service::Options;

/// The service with an operator before it.
struct Desk {
    service: TestService,
    operator: String,
    /// The organization of `cus_1`.
    organization: Uuid,
}

impl Desk {
    /// What fails is a dead letter at once.
    async fn open() -> Self {
        let options = Options {
            max_retries: 0,
            ..Options::default()
        };
        let service = TestService::with(options).await;
        let organization = service.db.organization("cus_1").await;
        let operator = service.token(Uuid::nil(), Role::Operator).await;
        Self {
            service,
            operator,
            organization,
        }
    }

    /// Delivers subscriptions of `customer`, evt_… by `ids`.
    async fn deliver(&self, customer: &str, ids: &[&str]) {
        for (n, id) in (0..).zip(ids) {
            let object = subscription(&format!("sub_{id}"), customer, "active", "standard");
            let event = event(
                id,
                "customer.subscription.created",
                1_760_000_000 + n,
                object,
            );
            self.service.deliver(&event).await;
            self.service.settle().await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}/api/operator{path}", self.service.base);
        let mut request = self.service.client.request(method, url);
        request = request.bearer_auth(&self.operator);
        request = request.header("user-agent", "desk");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    /// The ids on all pages of a list, two on each.
    async fn ids(&self, list: &str, field: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut more = String::new();
        loop {
            let sign = if list.contains('?') { '&' } else { '?' };
            let (status, page) = self.get(&format!("{list}{sign}limit=2{more}")).await;
            assert_eq!(status, 200, "{page}");
            let data = page["data"].as_array().unwrap();
            assert!((1..=2).contains(&data.len()), "{page}");
            ids.extend(
                data.iter()
                    .map(|row| row[field].as_str().unwrap().to_owned()),
            );
            match page["nextCursor"].as_str() {
                Some(cursor) => more = format!("&cursor={cursor}"),
                None => return ids,
            }
        }
    }

    /// What the audit log has of the operator: `action resource` in order, each
    /// with who and from where.
    async fn entries(&self, organization: Uuid) -> Vec<String> {
        let entries = format!(
            "SELECT string_agg(action || ' ' || resource_id, ',' ORDER BY sequence)
               FROM billing_audit_log l
               JOIN billing_audit_personal_data p ON p.entry_id = l.id
              WHERE l.organization_id = '{organization}' AND metadata->>'operator' = 'true'
                AND actor_type = 'user' AND p.user_agent = 'desk' AND p.ip_address = '127.0.0.1'
                AND actor_id = (SELECT id FROM users WHERE operator)"
        );
        let entries = self.service.db.value(&entries).await;
        entries.split(',').map(str::to_owned).collect()
    }
}

fn problem(status: u16, code: &str) -> impl Fn((u16, Value)) + use<> {
    let expected = (status, json!(code));
    move |(status, body)| assert_eq!((status, body["code"].clone()), expected, "{body}")
}
