//! The console, as a browser sees it: cookies, forms and pages.

mod accounts;
mod browser;
mod bulk;
mod events_out;
mod forms;
mod locks;
mod operators;
mod organization;
mod overrides;
mod pages;
mod sessions;
mod sign_on;
mod single_sign_on;
mod stored;

use std::collections::BTreeMap;

use reqwest::{Method, Response, StatusCode};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{self, Hasher, NewUser, Role};

use crate::support::TestService;
use crate::support::events::{event, subscription};
use crate::support::service::Options;

const PASSWORD: &str = "a right password";

/// A page as it came.
struct Page {
    status: u16,
    location: String,
    policy: String,
    framing: String,
    cookies: Vec<String>,
    text: String,
}

impl Page {
    async fn of(response: Response) -> Self {
        let headers = response.headers().clone();
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let cookies = headers.get_all("set-cookie").iter();
        Self {
            status: response.status().as_u16(),
            location: header("location"),
            policy: header("content-security-policy"),
            framing: header("x-frame-options"),
            cookies: cookies
                .map(|value| value.to_str().unwrap().to_owned())
                .collect(),
            text: response.text().await.unwrap(),
        }
    }

    /// The form token of the page's first form.
    fn form_token(&self) -> String {
        self.after("name=\"csrf\" value=\"")
    }

    /// When the last of the dead letters that it asks about was one.
    fn through(&self) -> String {
        self.after("name=\"through\" value=\"")
    }

    /// The address of the button that does what it asks about.
    fn once(&self) -> String {
        self.after("formaction=\"")
    }

    fn after(&self, before: &str) -> String {
        let found = self.text.split(before).nth(1);
        let found = found.unwrap_or_else(|| panic!("no form: {}", self.text));
        found.split('"').next().unwrap().to_owned()
    }
}

/// A browser, which keeps cookies.
struct Browser<'a> {
    service: &'a TestService,
    cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    fn new(service: &'a TestService) -> Self {
        let cookies = BTreeMap::new();
        Self { service, cookies }
    }

    /// One that has signed in.
    async fn of(service: &'a TestService, email: &str) -> Self {
        let mut browser = Self::new(service);
        let page = browser.sign_in(email, PASSWORD).await;
        assert_eq!(
            (page.status, &*page.location),
            (303, "/console"),
            "{}",
            page.text
        );
        browser
    }

    async fn send(&mut self, method: Method, path: &str, form: &[(&str, &str)]) -> Page {
        let url = format!("{}{path}", self.service.base);
        let mut request = self.service.client.request(method.clone(), url);
        let cookies = self.cookies.iter();
        let cookies: Vec<String> = cookies
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        request = request
            .header("user-agent", "desk")
            .header("accept", "text/html");
        if method == Method::POST {
            request = request.form(form);
        }
        let page = Page::of(request.send().await.unwrap()).await;
        for cookie in &page.cookies {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        page
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, &[]).await
    }

    /// Sends a form as the page of the session would, with a key of its own.
    async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        let path = format!("{path}?once={}", Uuid::now_v7());
        self.post_to(&path, form).await
    }

    async fn post_to(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        let token = self.get("/console").await.form_token();
        let form = [&[("csrf", &*token)], form].concat();
        self.send(Method::POST, path, &form).await
    }

    async fn sign_in(&mut self, email: &str, password: &str) -> Page {
        let token = self.get("/console/sign-in").await.form_token();
        let form = [("csrf", &*token), ("email", email), ("password", password)];
        self.send(Method::POST, "/console/sign-in", &form).await
    }
}

/// The service with an operator, one who only reads, and an organization's owner. What fails
/// is a dead letter at once.
struct Desk {
    service: TestService,
    /// The organization of `cus_1`.
    organization: Uuid,
}

const OPERATOR: &str = "operator@example.com";
const READER: &str = "reader@example.com";
const OWNER: &str = "owner@example.com";

impl Desk {
    async fn open() -> Self {
        Self::with(Options {
            max_retries: 0,
            ..Options::default()
        })
        .await
    }

    async fn with(options: Options) -> Self {
        Self::of(TestService::with(options).await).await
    }

    async fn of(service: TestService) -> Self {
        let organization = service.db.organization("cus_1").await;
        let desk = Self {
            service,
            organization,
        };
        desk.add_users().await;
        desk
    }

    /// The operators and the owner.
    async fn add_users(&self) {
        let pool = self.service.db.service_pool();
        for (email, role, organization_id) in [
            (OPERATOR, Role::Operator, None),
            (READER, Role::OperatorRead, None),
            (OWNER, Role::Owner, Some(self.organization)),
        ] {
            let new = NewUser {
                email: email.to_owned(),
                role,
                organization_id,
                password: PASSWORD.to_owned(),
            };
            auth::create_user(&pool, &Hasher::default(), new, &auth::By::SYSTEM)
                .await
                .unwrap();
        }
    }

    /// Delivers subscriptions of `customer`, evt_… by `ids`.
    async fn deliver(&self, customer: &str, ids: &[&str]) {
        for (n, id) in (0..).zip(ids) {
            let object = subscription(&format!("sub_{id}"), customer, "active", "standard");
            let kind = "customer.subscription.created";
            let event = event(id, kind, 1_760_000_000 + n, object);
            self.service.deliver(&event).await;
            self.service.settle().await;
        }
    }

    async fn dead_letters(&self) -> i64 {
        self.service.db.count("webhook_dead_letter_queue").await
    }

    /// How many entries of an action the audit log has of a user by this address.
    async fn entries(&self, action: &str, email: &str) -> i64 {
        let entries = format!(
            "billing_audit_log l JOIN billing_audit_personal_data p ON p.entry_id = l.id
              WHERE action = '{action}' AND metadata->>'operator' = 'true' AND actor_type = 'user'
                AND p.user_agent = 'desk' AND p.ip_address = '127.0.0.1'
                AND actor_id = (SELECT id FROM users WHERE email = '{email}')"
        );
        self.service.db.count(&entries).await
    }

    /// Every page that there is, with something to show.
    fn pages(&self) -> Vec<String> {
        let organization = self.organization;
        vec![
            "/console".to_owned(),
            "/console/webhooks".to_owned(),
            "/console/webhooks?type=customer.subscription.created&status=processed".to_owned(),
            "/console/webhooks/evt_1".to_owned(),
            "/console/webhooks/evt_2".to_owned(),
            "/console/dead-letters".to_owned(),
            "/console/bulk-actions".to_owned(),
            "/console/organizations".to_owned(),
            "/console/organizations?query=cus_1".to_owned(),
            format!("/console/organizations/{organization}"),
            format!("/console/organizations/{organization}/timeline"),
            format!("/console/organizations/{organization}/quotas/api_calls"),
            "/console/explain".to_owned(),
            "/console/explain?event=evt_1".to_owned(),
            format!("/console/explain?org={organization}&metric=api_calls"),
            "/console/events-out".to_owned(),
            "/console/events-out/deliveries?status=failed".to_owned(),
            "/console/plans".to_owned(),
            "/console/plans?plan=standard&price=109.00&currency=usd&interval=month".to_owned(),
            "/console/figures".to_owned(),
            "/console/figures/movements?month=2026-01&kind=new".to_owned(),
            "/console/figures/customers".to_owned(),
            "/console/audit-log".to_owned(),
            "/console/operators".to_owned(),
            "/console/account".to_owned(),
            "/console/account/second-factor".to_owned(),
            format!("/console/audit-log?org={organization}&actor=user"),
        ]
    }
}

fn is_ok(page: &Page) {
    assert_eq!(page.status, StatusCode::OK.as_u16(), "{}", page.text);
}
