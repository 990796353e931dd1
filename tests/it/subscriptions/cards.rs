//! Cards are added on Stripe's pages, chosen and removed here; the portal.

use reqwest::{Method, Url};
use serde_json::{Value, json};
use valuecanvas_billing::config::{AddressConfig, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{Answer, Stripe, VISA, World, text};
use crate::support::service::Options;

const CARDS: &str = "/api/billing/payment-methods";
const PORTAL: &str = "/api/billing/portal";
pub const APPLICATION: &str = "https://app.example.com/billing";

/// A service whose product is at [`APPLICATION`].
pub async fn with_application(stripe: Stripe) -> World {
    let options = Options {
        surface: SurfaceConfig {
            addresses: AddressConfig {
                application: Some(Url::parse(APPLICATION).unwrap()),
                return_origins: vec![
                    Url::parse(APPLICATION).unwrap(),
                    Url::parse("http://localhost:5173").unwrap(),
                ],
                public: None,
            },
            ..SurfaceConfig::default()
        },
        ..Options::default()
    };
    World::with(stripe, options).await
}

async fn world() -> World {
    with_application(Stripe::start().await).await
}

impl World {
    /// Fills in Stripe's page. Returns the status, and where it leads.
    pub async fn submit(&self, url: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let client = &self.service.client;
        let answer = client.post(url).form(fields).send().await.unwrap();
        let to = answer.headers().get("location");
        let to = to.map_or(String::new(), |to| to.to_str().unwrap().to_owned());
        (answer.status().as_u16(), to)
    }

    /// Attaches a test card to the customer, without making it the default.
    pub async fn attach(&self, customer: &str, card: &str) -> String {
        let path = format!("/v1/payment_methods/{card}/attach");
        text(
            &self.stripe.post(&path, &[("customer", customer)]).await,
            "id",
        )
    }

    async fn set_up(&self, body: Value) -> Answer {
        let path = format!("{CARDS}/setup");
        self.call(Method::POST, &path, Some(body)).await
    }

    async fn make_default(&self, id: &str) -> Answer {
        let path = format!("{CARDS}/{id}/default");
        self.call(Method::PUT, &path, None).await
    }

    async fn remove(&self, id: &str) -> Answer {
        self.call(Method::DELETE, &format!("{CARDS}/{id}"), None)
            .await
    }

    /// The attached ones, oldest first, the default with a star.
    async fn cards(&self) -> Vec<String> {
        let list = self.call(Method::GET, CARDS, None).await.ok();
        let mut cards: Vec<String> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| match one["isDefault"].as_bool().unwrap() {
                true => format!("{}*", text(one, "id")),
                false => text(one, "id"),
            })
            .collect();
        cards.sort_by_key(|card| card.ends_with('*'));
        cards
    }

    async fn default_in_stripe(&self, customer: &str) -> Value {
        let path = format!("/v1/customers/{customer}");
        let shown = self.stripe.get(&path, &[]).await;
        shown["invoice_settings"]["default_payment_method"].clone()
    }
}

#[tokio::test]
async fn a_card_is_added_on_stripes_page_and_pays_though_none_is_the_default() {
    let world = world().await;
    let page = world
        .set_up(json!({"returnUrl": "http://localhost:5173/cards"}))
        .await;
    assert_eq!(page.status, 201);
    let page = page.ok();
    assert_eq!(
        (&page["mode"], &page["clientSecret"]),
        (&json!("page"), &Value::Null)
    );
    let form = [("action", "pay"), ("number", "4242424242424242")];
    let (status, to) = world.submit(&text(&page, "url"), &form).await;
    assert_eq!((status, &*to), (303, "http://localhost:5173/cards"));
    world.settle().await;
    let cards = world.cards().await;
    assert!(cards.len() == 1 && cards[0].ends_with('*'), "{cards:?}");
    let made = world.create("standard").await;
    assert_eq!(made.status, 201, "{made:?}");
    let card = cards[0].trim_end_matches('*').to_owned();
    let customers = world.stripe.list("/v1/customers", &[]).await;
    assert_eq!(customers.len(), 1);
    let customer = text(&customers[0], "id");
    assert_eq!(world.default_in_stripe(&customer).await, json!(card));
    assert!(
        world
            .audit()
            .await
            .contains(&"payment_method_default_set user".to_owned())
    );
}

#[tokio::test]
async fn a_trial_begun_with_the_only_card_is_charged_to_it_when_it_ends() {
    let world = world().await;
    let customer = text(&world.stripe.post("/v1/customers", &[]).await, "id");
    world.adopt(&customer).await;
    let card = world.attach(&customer, VISA).await;
    let body = json!({"planTier": "standard", "trialDays": 14});
    let made = world
        .call(Method::POST, "/api/billing/subscription", Some(body))
        .await;
    assert_eq!(made.ok()["status"], "trialing");
    assert_eq!(world.default_in_stripe(&customer).await, json!(card));
}

#[tokio::test]
async fn of_two_cards_none_is_charged_unasked() {
    let world = world().await;
    let customer = text(&world.stripe.post("/v1/customers", &[]).await, "id");
    world.adopt(&customer).await;
    world.attach(&customer, VISA).await;
    let second = world.attach(&customer, "pm_card_mastercard").await;
    let refused = world.create("standard").await;
    assert_eq!(refused.problem(), (402, "payment_method_required"));
    let chosen = world.make_default(&second).await.ok();
    assert_eq!(
        (&chosen["id"], &chosen["isDefault"]),
        (&json!(second), &json!(true))
    );
    assert_eq!(world.create("standard").await.status, 201);
}

#[tokio::test]
async fn an_intent_is_for_stripes_form_in_the_product() {
    let world = world().await;
    let intent = world.set_up(json!({"mode": "elements"})).await.ok();
    assert_eq!(
        (&intent["mode"], &intent["url"]),
        (&json!("elements"), &Value::Null)
    );
    let id = text(&intent, "id");
    assert!(text(&intent, "clientSecret").starts_with(&id));
    let path = format!("/v1/setup_intents/{id}/confirm");
    world.stripe.post(&path, &[("payment_method", VISA)]).await;
    world.settle().await;
    assert_eq!(world.cards().await.len(), 1);
}

#[tokio::test]
async fn another_default_is_charged_by_subscriptions_with_one_of_their_own_too() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let subscription = text(&world.current().await, "stripeSubscriptionId");
    let first = text(
        &json!({"id": world.default_in_stripe(&customer).await}),
        "id",
    );
    let path = format!("/v1/subscriptions/{subscription}");
    world
        .stripe
        .post(&path, &[("default_payment_method", &first)])
        .await;
    let second = world.attach(&customer, "pm_card_mastercard").await;
    world.make_default(&second).await.ok();
    // Before any event has arrived, too.
    let own = world.stripe.get(&path, &[]).await["default_payment_method"].clone();
    assert_eq!(own, json!(second));
    world.settle().await;
    assert_eq!(world.cards().await, [first.clone(), format!("{second}*")]);
    // Once more changes nothing.
    world.make_default(&second).await.ok();
    assert_eq!(world.default_in_stripe(&customer).await, json!(second));
}

#[tokio::test]
async fn a_card_goes_and_the_last_of_a_running_subscription_stays() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let first = text(
        &json!({"id": world.default_in_stripe(&customer).await}),
        "id",
    );
    let refused = world.remove(&first).await;
    assert_eq!(refused.problem(), (409, "last_payment_method"));
    let second = world.attach(&customer, "pm_card_mastercard").await;
    // The next one is charged from then on.
    assert_eq!(world.remove(&first).await.status, 204);
    assert_eq!(world.default_in_stripe(&customer).await, json!(second));
    assert_eq!(world.remove(&first).await.problem().0, 404);
    world.settle().await;
    assert_eq!(world.cards().await, [format!("{second}*")]);
    world.cancel(true).await.ok();
    assert_eq!(world.remove(&second).await.status, 204);
    world.settle().await;
    assert_eq!(world.cards().await, Vec::<String>::new());
    let audit = world.audit().await;
    let removed = audit
        .iter()
        .filter(|entry| *entry == "payment_method_removed user");
    assert_eq!(removed.count(), 2, "{audit:?}");
}

#[tokio::test]
async fn a_card_that_nothing_is_charged_to_goes_without_a_change() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let subscription = text(&world.current().await, "stripeSubscriptionId");
    let default = world.default_in_stripe(&customer).await;
    let own = world.attach(&customer, "pm_card_mastercard").await;
    let path = format!("/v1/subscriptions/{subscription}");
    let fields = [("default_payment_method", &*own)];
    world.stripe.post(&path, &fields).await;
    let unused = world.attach(&customer, VISA).await;
    assert_eq!(world.remove(&unused).await.status, 204);
    let charged = async || world.stripe.get(&path, &[]).await["default_payment_method"].clone();
    assert_eq!(charged().await, json!(own));
    assert_eq!(world.default_in_stripe(&customer).await, default);
    // The one that is charged goes: the default is charged instead.
    assert_eq!(world.remove(&own).await.status, 204);
    assert_eq!(charged().await, default);
    assert_eq!(world.default_in_stripe(&customer).await, default);
}

#[tokio::test]
async fn the_only_card_of_who_paid_a_moment_ago_stays() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.deliver_nothing().await;
    let price = [("lookup_keys[]", "valuecanvas_standard_monthly")];
    let price = world.stripe.get("/v1/prices", &price).await;
    let price = text(&price["data"][0], "id");
    let fields = [("customer", &*customer), ("items[0][price]", &*price)];
    world.stripe.post("/v1/subscriptions", &fields).await;
    let card = world.default_in_stripe(&customer).await;
    let refused = world.remove(card.as_str().unwrap()).await;
    assert_eq!(refused.problem(), (409, "last_payment_method"));
}

#[tokio::test]
async fn two_requests_never_remove_the_last_two_cards() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let first = text(
        &json!({"id": world.default_in_stripe(&customer).await}),
        "id",
    );
    let second = world.attach(&customer, "pm_card_mastercard").await;
    let (one, other) = tokio::join!(world.remove(&first), world.remove(&second));
    let done = [one.status, other.status]
        .iter()
        .filter(|status| **status == 204)
        .count();
    assert!(done <= 1, "{one:?} {other:?}");
    let left = format!("/v1/customers/{customer}/payment_methods");
    assert!(!world.stripe.list(&left, &[]).await.is_empty());
}

#[tokio::test]
async fn an_answer_that_was_lost_is_mirrored_afterwards() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let second = world.attach(&customer, "pm_card_mastercard").await;
    world.settle().await;
    world.deliver_nothing().await;
    let path = format!("/v1/payment_methods/{second}/detach");
    let fault = [
        ("fault", "drop_after_acting"),
        ("path", path.as_str()),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    let lost = world.remove(&second).await;
    assert_eq!(lost.problem(), (503, "stripe_unreachable"));
    assert_eq!(world.cards().await.len(), 2);
    world.stripe.clear_faults().await;
    // As if the time for its retries had passed.
    let aged = "UPDATE billing_stripe_requests
                   SET created_at = created_at - interval '1 hour', called_at = called_at - interval '1 hour'
                 WHERE subject = 'payment_method' AND state = 'open'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    assert_eq!(world.cards().await.len(), 1);
    assert!(
        world
            .audit()
            .await
            .contains(&"payment_method_removed user".to_owned())
    );
}

#[tokio::test]
async fn cards_of_others_are_not_found() {
    let world = world().await;
    let theirs = world.stripe.customer(VISA, None).await;
    let card = world.default_in_stripe(&theirs).await;
    let card = card.as_str().unwrap();
    let loose = world.stripe.post(
        "/v1/payment_methods",
        &[("type", "card"), ("card[token]", "tok_visa")],
    );
    let loose = text(&loose.await, "id");
    for id in [card, &*loose, "pm_none", "cus_x", "pm_..%2Fx", "pm_%00"] {
        assert_eq!(world.make_default(id).await.problem().0, 404, "{id}");
        assert_eq!(world.remove(id).await.problem().0, 404, "{id}");
    }
    assert_eq!(world.default_in_stripe(&theirs).await, json!(card));
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let mut world = world().await;
    world.token = world.service.token(world.organization, Role::Member).await;
    assert_eq!(world.set_up(json!({})).await.status, 403);
    assert_eq!(world.make_default("pm_x").await.status, 403);
    assert_eq!(world.remove("pm_x").await.status, 403);
    let portal = world.call(Method::POST, PORTAL, Some(json!({}))).await;
    assert_eq!(portal.status, 403);
}

#[tokio::test]
async fn the_portal_offers_neither_plans_nor_cancellation() {
    let world = world().await;
    let path = "/v1/billing_portal/configurations";
    for _ in 0..2 {
        let opened = world.call(Method::POST, PORTAL, Some(json!({}))).await;
        assert_eq!(opened.status, 201, "{opened:?}");
        assert!(text(&opened.body, "url").starts_with(&world.stripe.sandbox.url()));
    }
    let made = world.stripe.list(path, &[]).await;
    assert_eq!(made.len(), 1);
    let features = &made[0]["features"];
    assert_eq!(features["payment_method_update"]["enabled"], true);
    assert_eq!(made[0]["default_return_url"], APPLICATION);
    // Somebody lets customers cancel there; the next session sets it right.
    let ours = format!("{path}/{}", text(&made[0], "id"));
    world
        .stripe
        .post(&ours, &[("features[subscription_cancel][enabled]", "true")])
        .await;
    world.call(Method::POST, PORTAL, Some(json!({}))).await.ok();
    let features = world.stripe.get(&ours, &[]).await["features"].clone();
    for feature in ["subscription_cancel", "subscription_update"] {
        assert_eq!(features[feature]["enabled"], false, "{feature}");
    }
    assert_eq!(world.stripe.list(path, &[]).await.len(), 1);
    // Somebody archives it; the next session brings it back.
    world.stripe.post(&ours, &[("active", "false")]).await;
    world.call(Method::POST, PORTAL, Some(json!({}))).await.ok();
    assert_eq!(world.stripe.get(&ours, &[]).await["active"], true);
    assert_eq!(world.stripe.list(path, &[]).await.len(), 1);
}

#[tokio::test]
async fn pages_lead_back_to_the_product_and_nowhere_else() {
    let world = world().await;
    for bad in [
        "https://evil.example",
        "javascript:alert(1)",
        "/relative",
        "https://app.example.com:444/",
    ] {
        let body = json!({"returnUrl": bad});
        let refused = world.set_up(body.clone()).await;
        assert_eq!(refused.problem(), (422, "return_url_not_allowed"), "{bad}");
        assert_eq!(refused.body["field"], "returnUrl");
        let portal = world.call(Method::POST, PORTAL, Some(body)).await;
        assert_eq!(portal.problem(), (422, "return_url_not_allowed"), "{bad}");
    }
    // Nothing was asked of Stripe.
    assert_eq!(world.stripe.list("/v1/customers", &[]).await.len(), 0);
    let unknown = world.set_up(json!({"returnURL": "x"})).await;
    assert_eq!(unknown.problem(), (400, "unknown_field"));
    let bare = World::start().await;
    assert_eq!(
        bare.set_up(json!({})).await.problem(),
        (422, "return_url_required")
    );
}

#[tokio::test]
async fn a_customer_that_was_deleted_is_replaced() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    world.deliver_nothing().await;
    let path = format!("/v1/customers/{customer}");
    world.stripe.send(Method::DELETE, &path, &[]).await;
    assert_eq!(world.set_up(json!({})).await.status, 201);
    let sessions = world.stripe.list("/v1/checkout/sessions", &[]).await;
    assert_ne!(sessions[0]["customer"], json!(customer));
}
