//! Digest, a small product that summarizes texts and is paid by the month and seat.
//!
//! It shows how a product uses valuecanvas-billing: each handler below is one thing that
//! docs/integration.md explains. Customers are kept in a map, and a cookie is their log-in:
//! your product has its own for both.

mod billing;
mod events;
mod pages;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, RawForm, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use billing::{Billing, Failure};
use events::States;

const SUBSCRIPTION: &str = "/api/billing/subscription";

/// A customer of the product. Its id is what billing calls it, too.
#[derive(Clone)]
struct Customer {
    id: String,
    company: String,
    teammates: u64,
}

struct Product {
    billing: Billing,
    events_secret: String,
    customers: Mutex<HashMap<String, Customer>>,
    states: Mutex<States>,
}

/// What a customer who is logged in asks for.
struct Visit {
    product: Arc<Product>,
    customer: Customer,
    origin: String,
    fields: HashMap<String, String>,
}

type Answer = Result<Response, Failure>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| format!("set {name}: docs/integration.md"));
    // The client speaks TLS, and is told by whose code.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let product = Product {
        billing: Billing::new(variable("BILLING_URL")?, variable("BILLING_KEY")?)?,
        events_secret: variable("BILLING_EVENTS_SECRET")?,
        customers: Mutex::default(),
        states: Mutex::default(),
    };
    let app = Router::new()
        .route("/", get(async || Html(pages::sign_up())))
        .route("/sign-up", post(sign_up))
        .route("/account", get(account))
        .route("/subscribe", post(subscribe))
        .route("/welcome", get(welcome))
        .route("/summaries", post(summarize))
        .route("/teammates", post(add_teammate))
        .route("/change", post(preview_change))
        .route("/change/confirm", post(confirm_change))
        .route("/cards", post(add_card))
        .route("/cards/default", post(charge_card))
        .route("/portal", post(portal))
        .route("/cancel", post(cancel))
        .route("/stay", post(stay))
        .route("/billing-events", post(billing_event))
        .with_state(Arc::new(product));
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("Digest listens on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// Sign-up: the customer's id is ours. Sent again, the request makes nothing twice.
async fn sign_up(State(product): State<Arc<Product>>, RawForm(form): RawForm) -> Answer {
    let fields = fields_of(&form);
    let customer = Customer {
        id: format!("digest-{}", Uuid::new_v4()),
        company: fields.get("company").cloned().unwrap_or_default(),
        teammates: 1,
    };
    let path = format!("/api/organizations/{}", customer.id);
    let body = json!({"name": customer.company, "email": fields.get("email")});
    product
        .billing
        .send(Method::PUT, &customer.id, &path, Some(&body), None)
        .await?;
    let cookie = format!("customer={}; HttpOnly; SameSite=Lax; Path=/", customer.id);
    product.keep(customer);
    Ok(([(header::SET_COOKIE, cookie)], go_to("/account")?).into_response())
}

async fn account(visit: Visit) -> Answer {
    visit.account(None).await
}

/// Checkout: the payer goes to Stripe's page, and comes back to /welcome.
async fn subscribe(visit: Visit) -> Answer {
    let origin = &visit.origin;
    let body = json!({
        "planTier": visit.field("plan"),
        "quantity": visit.number("seats"),
        "successUrl": format!("{origin}/welcome?checkout={{CHECKOUT_SESSION_ID}}"),
        "cancelUrl": format!("{origin}/account"),
    });
    let checkout = visit.post("/api/billing/checkout", &body).await?;
    go_to(checkout["url"].as_str().unwrap_or("/account"))
}

/// Back from Stripe's page: who paid has the plan now, before any webhook.
async fn welcome(visit: Visit) -> Answer {
    let checkout = visit.id("checkout")?;
    let path = format!("/api/billing/checkout/{checkout}/complete");
    let done = visit.post(&path, &json!({})).await?;
    match done["checkout"]["status"].as_str() {
        Some("complete") => go_to("/account"),
        _ => Err(Failure::Refused(
            "Your bank has not answered yet.".to_owned(),
        )),
    }
}

/// An expensive call whose use is known afterwards: the most that it may use is held, and
/// refused over the quota; then what it did use is counted, and the rest given back.
async fn summarize(visit: Visit) -> Answer {
    const MOST_WORDS: usize = 5_000;
    let text = visit.field("text");
    let words = text.split_whitespace().count().min(MOST_WORDS);
    let features = visit.state().await?["features"].clone();
    if text.len() > 2_000 && features["long_texts"] != true {
        let problem = "Long texts are part of the Business plan.";
        return Err(Failure::Refused(problem.to_owned()));
    }
    let id = Uuid::new_v4().to_string();
    let use_of_one = json!({"id": id, "metric": "summaries", "quantity": 1, "consume": true});
    visit.post("/api/billing/usage/check", &use_of_one).await?;
    let held = json!({"id": format!("{id}-words"), "metric": "words", "quantity": MOST_WORDS});
    let reservations = "/api/billing/usage/reservations";
    visit.post(reservations, &held).await?;
    // The work that is sold. Yours is more expensive.
    let end = text.find(['.', '!', '?']).map_or(text.len(), |end| end + 1);
    let summary = format!("{} …", &text[..end]);
    let confirm = format!("{reservations}/{id}-words/confirm");
    visit.post(&confirm, &json!({"quantity": words})).await?;
    visit.account(Some(&summary)).await
}

/// A seat is a level: as many as there are teammates, and no more than were bought.
async fn add_teammate(visit: Visit) -> Answer {
    let mut customer = visit.customer.clone();
    customer.teammates += 1;
    let level = json!({
        "id": Uuid::new_v4(), "metric": "seats", "quantity": customer.teammates, "consume": true,
    });
    visit.post("/api/billing/usage/check", &level).await?;
    visit.product.keep(customer);
    go_to("/account")
}

/// A change of plan or seats: first its price, with a token that binds it …
async fn preview_change(visit: Visit) -> Answer {
    let wish = json!({"planTier": visit.field("plan"), "quantity": visit.number("seats")});
    let preview = format!("{SUBSCRIPTION}/preview");
    let shown = visit.post(&preview, &wish).await?;
    let key = Uuid::new_v4().to_string();
    Ok(Html(pages::preview(&shown, &key)).into_response())
}

/// … then the change, which costs what was shown. Where the bank asks its cardholder, the
/// same request is sent again, with the same key, when they have answered.
async fn confirm_change(visit: Visit) -> Answer {
    let (plan, token, key) = (
        visit.field("plan"),
        visit.field("token"),
        visit.field("key"),
    );
    let wish = json!({"planTier": plan, "previewToken": token});
    let done = visit
        .send(Method::PUT, SUBSCRIPTION, Some(&wish), Some(key))
        .await?;
    if done["nextAction"].is_null() {
        return go_to("/account");
    }
    let fields = [("plan", plan), ("token", token), ("key", key)];
    let page = pages::confirm_payment(&done["nextAction"], &fields);
    Ok(Html(page).into_response())
}

/// Cards are entered on Stripe's page; which one is charged is chosen here.
async fn add_card(visit: Visit) -> Answer {
    let body = json!({"mode": "page", "returnUrl": format!("{}/account", visit.origin)});
    let page = visit.post("/api/billing/payment-methods/setup", &body);
    go_to(page.await?["url"].as_str().unwrap_or("/account"))
}

async fn charge_card(visit: Visit) -> Answer {
    let card = visit.id("card")?;
    let path = format!("/api/billing/payment-methods/{card}/default");
    visit.send(Method::PUT, &path, None, None).await?;
    go_to("/account")
}

/// Invoices, addresses and tax ids are Stripe's own pages, which show nothing that billing
/// must know first.
async fn portal(visit: Visit) -> Answer {
    let body = json!({"returnUrl": format!("{}/account", visit.origin)});
    let portal = visit.post("/api/billing/portal", &body).await?;
    go_to(portal["url"].as_str().unwrap_or("/account"))
}

/// The plan stays until the end of what is paid for, and the customer may stay after all.
async fn cancel(visit: Visit) -> Answer {
    let body = json!({"reason": "canceled on the account page"});
    visit
        .send(Method::DELETE, SUBSCRIPTION, Some(&body), None)
        .await?;
    go_to("/account")
}

async fn stay(visit: Visit) -> Answer {
    let reactivate = format!("{SUBSCRIPTION}/reactivate");
    visit.send(Method::POST, &reactivate, None, None).await?;
    go_to("/account")
}

/// What changed, told by billing: of each customer's states the newest is kept.
async fn billing_event(
    State(product): State<Arc<Product>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let body = String::from_utf8_lossy(&body);
    match events::verified(&product.events_secret, &headers, &body) {
        Some(event) => {
            product.states().take(&event);
            StatusCode::NO_CONTENT
        }
        None => StatusCode::BAD_REQUEST,
    }
}

impl Product {
    fn customers(&self) -> MutexGuard<'_, HashMap<String, Customer>> {
        let all = self.customers.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    fn states(&self) -> MutexGuard<'_, States> {
        let all = self.states.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, customer: Customer) {
        self.customers().insert(customer.id.clone(), customer);
    }
}

impl Visit {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// One of Stripe's ids, which becomes part of a path.
    fn id(&self, name: &str) -> Result<&str, Failure> {
        let id = self.field(name);
        let is_one = id
            .bytes()
            .all(|one| one.is_ascii_alphanumeric() || one == b'_');
        let no_id = || Failure::Refused(format!("{name} is no id"));
        is_one.then_some(id).ok_or_else(no_id)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name).parse().ok()
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body), None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value, Failure> {
        let billing = &self.product.billing;
        billing
            .send(method, &self.customer.id, path, body, key)
            .await
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None, None).await
    }

    /// The state that billing told last, or as it is.
    async fn state(&self) -> Result<Value, Failure> {
        let told = self.product.states().of(&self.customer.id);
        match told {
            Some(state) => Ok(state),
            None => self.get("/api/billing/state").await,
        }
    }

    /// The account page: the state is one read, which is never stale.
    async fn account(&self, summary: Option<&str>) -> Answer {
        let (state, plans, cards, invoices) = tokio::try_join!(
            self.get("/api/billing/state"),
            self.get("/api/billing/plans"),
            self.get("/api/billing/payment-methods"),
            self.get("/api/billing/invoices"),
        )?;
        let page = pages::account(&pages::Account {
            company: &self.customer.company,
            teammates: self.customer.teammates,
            state: &state,
            plans: &plans,
            cards: &cards,
            invoices: &invoices,
            summary,
        });
        Ok(Html(page).into_response())
    }
}

/// Whoever is not logged in is sent to the sign-up.
impl FromRequest<Arc<Product>> for Visit {
    type Rejection = Response;

    async fn from_request(request: Request, product: &Arc<Product>) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let header = |name: header::HeaderName| {
            let value = headers.get(name);
            value.and_then(|value| value.to_str().ok()).unwrap_or("")
        };
        let origin = format!("http://{}", header(header::HOST));
        let mut cookies = header(header::COOKIE).split("; ");
        let id = cookies.find_map(|cookie| cookie.strip_prefix("customer="));
        let customer = id.and_then(|id| product.customers().get(id).cloned());
        let customer = customer.ok_or_else(|| Redirect::to("/").into_response())?;
        let RawForm(form) = RawForm::from_request(request, product)
            .await
            .map_err(IntoResponse::into_response)?;
        Ok(Self {
            product: product.clone(),
            customer,
            origin,
            fields: fields_of(&form),
        })
    }
}

/// Billing's refusals are for people: "the card was declined", "the quota is used up".
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(problem) => {
                let page = Html(pages::problem(&problem));
                (StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
            }
            Self::Unavailable(error) => {
                eprintln!("{error}");
                let page = Html(pages::problem(
                    "Something went wrong. Nothing was charged twice: try again.",
                ));
                (StatusCode::INTERNAL_SERVER_ERROR, page).into_response()
            }
        }
    }
}

fn fields_of(form: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(form).into_owned().collect()
}

fn go_to(address: &str) -> Answer {
    Ok(Redirect::to(address).into_response())
}
