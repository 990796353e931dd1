//! The customer pages, as a browser sees them: links, cookies, forms and pages.

mod browser;
mod flows;
mod forms;
mod sessions;
mod stored;

use std::collections::BTreeMap;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::support::TestService;

const PASSWORD: &str = "a right password";
/// Every page that takes no id, with nothing to do but look.
const PAGES: [&str; 5] = [
    "/portal",
    "/portal/plans",
    "/portal/invoices",
    "/portal/payment-methods",
    "/portal/activity",
];
/// Every form that acts or asks.
const FORMS: [&str; 8] = [
    "/portal/plans/preview",
    "/portal/plans/change",
    "/portal/cancel",
    "/portal/keep",
    "/portal/call-off",
    "/portal/payment-methods/add",
    "/portal/payment-methods/default",
    "/portal/payment-methods/remove",
];

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

    /// What follows `before`, up to the end of its attribute.
    #[track_caller]
    fn after(&self, before: &str) -> String {
        let found = self.text.split(before).nth(1);
        let found = found.unwrap_or_else(|| panic!("no {before}: {}", self.text));
        let found = found.split('"').next().unwrap();
        found.replace("&amp;", "&").replace("&#38;", "&")
    }

    fn form_token(&self) -> String {
        self.after("name=\"csrf\" value=\"")
    }

    /// The address of the form that acts at `path`, with its key.
    #[track_caller]
    fn act(&self, path: &str) -> String {
        format!("{path}?once={}", self.after(&format!("\"{path}?once=")))
    }

    #[track_caller]
    fn says(&self, text: &str) {
        assert!(self.text.contains(text), "{text}: {}", self.text);
    }

    #[track_caller]
    fn is(&self, status: u16) {
        assert_eq!(self.status, status, "{} {}", self.location, self.text);
    }

    #[track_caller]
    fn leads_to(&self, address: &str) {
        assert_eq!(
            (self.status, &*self.location),
            (303, address),
            "{}",
            self.text
        );
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

    /// One that came by a link.
    async fn of(service: &'a TestService, organization: Uuid, role: &str) -> Self {
        let url = link(service, &organization.to_string(), role).await;
        let mut browser = Self::new(service);
        browser
            .get(path_of(service, &url))
            .await
            .leads_to("/portal");
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
            .header("user-agent", "kitchen table")
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

    /// Sends a form of the session to exactly this address.
    async fn post_to(&mut self, address: &str, form: &[(&str, &str)]) -> Page {
        let token = self.get("/portal").await.form_token();
        let form = [&[("csrf", &*token)], form].concat();
        self.send(Method::POST, address, &form).await
    }

    /// The same with a key of its own, where the form acts.
    async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        let address = format!("{path}?once={}", Uuid::now_v7());
        self.post_to(&address, form).await
    }

    async fn sign_in(&mut self, email: &str, password: &str) -> Page {
        let token = self.get("/portal/sign-in").await.form_token();
        let form = [("csrf", &*token), ("email", email), ("password", password)];
        self.send(Method::POST, "/portal/sign-in", &form).await
    }
}

/// What the product is answered that asks for a session.
async fn asked(service: &TestService, body: &Value) -> (u16, Value) {
    let key = service.service_key(&[Permission::PortalCreate]).await;
    asked_with(service, &key, body).await
}

async fn asked_with(service: &TestService, key: &str, body: &Value) -> (u16, Value) {
    let request = service.post("/api/portal-sessions").bearer_auth(key);
    let response = request.json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

/// The address that the product sends a visitor to.
async fn link(service: &TestService, organization: &str, role: &str) -> String {
    let body = json!({"organization": organization, "role": role});
    let (status, made) = asked(service, &body).await;
    assert_eq!(status, 201, "{made:#}");
    made["url"].as_str().unwrap().to_owned()
}

fn path_of<'a>(service: &TestService, url: &'a str) -> &'a str {
    url.strip_prefix(service.base.as_str())
        .unwrap_or_else(|| panic!("{url}"))
}
