//! Who gets a trial, and what becomes of one that ends without a card.

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use valuecanvas_billing::config::{AddressConfig, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{Answer, DAY, SUBSCRIPTION, Stripe, VISA, World, text};
use crate::support::service::Options;

const CHECKOUT: &str = "/api/billing/checkout";
const APPLICATION: &str = "https://app.example.com/";
const MASTERCARD: &str = "pm_card_mastercard";

struct Shop {
    world: World,
    _file: tempfile::TempDir,
}

impl Shop {
    async fn open(lines: &str) -> Self {
        let file = tempfile::tempdir().unwrap();
        let plans = std::fs::read_to_string("config/plans.toml").unwrap();
        let section = format!("[recovery]\n{lines}\n\n[proration]\n");
        let plans = plans.replacen("[proration]\n", &section, 1);
        assert!(plans.contains(lines));
        let path = file.path().join("plans.toml");
        std::fs::write(&path, plans).unwrap();
        let application = Url::parse(APPLICATION).unwrap();
        let options = Options {
            plans_file: Some(path),
            surface: SurfaceConfig {
                addresses: AddressConfig {
                    application: Some(application.clone()),
                    return_origins: vec![application],
                    public: None,
                },
                ..SurfaceConfig::default()
            },
            ..Options::default()
        };
        Self {
            world: World::with(Stripe::start().await, options).await,
            _file: file,
        }
    }

    /// Another organization calls from now on.
    async fn newcomer(&mut self) {
        self.world.organization = self.world.service.organization("Newcomer").await;
        let (organization, owner) = (self.world.organization, Role::Owner);
        self.world.token = self.world.service.token(organization, owner).await;
    }

    /// A customer without a card, on a clock.
    async fn customer(&self, clock: &str) -> String {
        let fields = [("test_clock", clock)];
        let customer = text(
            &self.world.stripe.post("/v1/customers", &fields).await,
            "id",
        );
        self.world.adopt(&customer).await;
        customer
    }

    async fn clock(&self) -> String {
        self.world.stripe.clock(Timestamp::now().as_second()).await
    }

    async fn advance(&self, clock: &str, days: i64) {
        let to = Timestamp::now().as_second() + days * DAY;
        self.world.stripe.advance(clock, to).await;
        self.world.settle().await;
    }

    async fn try_it(&self) -> Answer {
        let body = json!({"planTier": "standard", "trialDays": 14});
        self.world
            .call(Method::POST, SUBSCRIPTION, Some(body))
            .await
    }

    /// A page for a trial.
    async fn page(&self) -> Value {
        let body = json!({"planTier": "standard", "trialDays": 14});
        self.world
            .call(Method::POST, CHECKOUT, Some(body))
            .await
            .ok()
    }

    /// A page on which this card is entered, and what completing it answers.
    async fn try_by_page(&self, number: &str) -> Answer {
        let page = self.page().await;
        let form = [("action", "pay"), ("number", number)];
        let (status, to) = self.world.submit(&text(&page, "url"), &form).await;
        assert_eq!((status, &*to), (303, APPLICATION));
        let path = format!("{CHECKOUT}/{}/complete", text(&page, "id"));
        self.world.call(Method::POST, &path, None).await
    }

    async fn payment(&self) -> Value {
        let state = "/api/billing/state";
        self.world.call(Method::GET, state, None).await.ok()["payment"].clone()
    }
}

#[tokio::test]
async fn a_trial_without_a_card_ends_the_subscription_where_the_catalogue_says_so() {
    let shop = Shop::open("trial_end_without_card = \"cancel\"").await;
    let clock = shop.clock().await;
    shop.customer(&clock).await;
    assert_eq!(shop.try_it().await.ok()["status"], "trialing");
    shop.advance(&clock, 15).await;
    assert_eq!(shop.world.current().await["status"], Value::Null);
    assert_eq!(shop.world.plan().await.0, "free");
}

#[tokio::test]
async fn a_trial_that_paused_goes_on_once_a_card_has_paid() {
    let shop = Shop::open("trial_end_without_card = \"pause\"").await;
    let clock = shop.clock().await;
    let customer = shop.customer(&clock).await;
    assert_eq!(shop.try_it().await.ok()["status"], "trialing");
    shop.advance(&clock, 15).await;
    assert_eq!(shop.world.current().await["status"], "paused");
    assert_eq!(shop.world.plan().await.0, "free");
    let payment = shop.payment().await;
    assert_eq!(
        (&payment["status"], &payment["problem"]),
        (&json!("paused"), &json!("payment_method_missing"))
    );
    let card = shop.world.attach(&customer, VISA).await;
    let path = format!("/api/billing/payment-methods/{card}/default");
    shop.world.call(Method::PUT, &path, None).await.ok();
    assert_eq!(shop.world.current().await["status"], "active");
    assert_eq!(shop.world.plan().await.0, "standard");
    shop.world.settle().await;
    assert_eq!(shop.payment().await["status"], "paid");
    let invoices = shop.world.stripe.invoices(&customer).await;
    let paid = invoices.iter().filter(|one| one["amount_paid"] == 9_900);
    assert_eq!(paid.count(), 1);
}

#[tokio::test]
async fn stripes_page_ends_trials_the_same_way_and_asks_for_no_card_where_none_is_needed() {
    let shop = Shop::open("trial_end_without_card = \"pause\"\ntrial_card = \"optional\"").await;
    let page = shop.page().await;
    let form = [("action", "pay"), ("number", "")];
    let (status, _) = shop.world.submit(&text(&page, "url"), &form).await;
    assert_eq!(status, 303);
    let path = format!("{CHECKOUT}/{}/complete", text(&page, "id"));
    let done = shop.world.call(Method::POST, &path, None).await;
    assert_eq!(
        (done.status, &done.body["status"]),
        (200, &json!("trialing"))
    );
    let made = shop.world.stripe.list("/v1/subscriptions", &[]).await;
    let end = &made[0]["trial_settings"]["end_behavior"]["missing_payment_method"];
    assert_eq!(end, "pause");
}

#[tokio::test]
async fn by_default_the_page_asks_for_a_card() {
    let shop = Shop::open("trial_end_without_card = \"cancel\"").await;
    let page = shop.page().await;
    let form = [("action", "pay"), ("number", "")];
    let (status, _) = shop.world.submit(&text(&page, "url"), &form).await;
    assert_eq!(status, 200);
    let path = format!("{CHECKOUT}/{}/complete", text(&page, "id"));
    assert_eq!(shop.world.call(Method::POST, &path, None).await.status, 202);
}

#[tokio::test]
async fn a_trial_may_need_a_card() {
    let shop = Shop::open("trial_card = \"required\"").await;
    let refused = shop.try_it().await;
    assert_eq!(refused.problem(), (402, "payment_method_required"));
    let customer = shop.customer(&shop.clock().await).await;
    assert_eq!(
        shop.try_it().await.problem(),
        (402, "payment_method_required")
    );
    shop.world.attach(&customer, VISA).await;
    assert_eq!(shop.try_it().await.ok()["status"], "trialing");
    // A subscription that is paid needs nothing else.
    let all = shop.world.stripe.subscriptions(&customer).await;
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn a_card_has_one_trial_whoever_holds_it() {
    let mut shop = Shop::open("one_trial_per = \"card\"").await;
    shop.world.customer(VISA).await;
    assert_eq!(shop.try_it().await.ok()["status"], "trialing");
    shop.world.settle().await;

    shop.newcomer().await;
    let customer = shop.world.customer(VISA).await;
    assert_eq!(shop.try_it().await.problem(), (409, "trial_used"));
    let body = json!({"planTier": "standard", "trialDays": 14});
    let page = shop.world.call(Method::POST, CHECKOUT, Some(body)).await;
    assert_eq!(page.problem(), (409, "trial_used"));
    assert_eq!(
        shop.world.stripe.subscriptions(&customer).await,
        Vec::<Value>::new()
    );
    // Without a trial, or with another card, it is as it always was.
    shop.world.stripe.use_card(&customer, MASTERCARD).await;
    assert_eq!(shop.try_it().await.ok()["status"], "trialing");

    shop.newcomer().await;
    shop.world.customer(VISA).await;
    assert_eq!(shop.world.create("standard").await.ok()["status"], "active");
}

#[tokio::test]
async fn a_card_that_is_entered_on_the_page_has_one_trial_too() {
    let mut shop = Shop::open("one_trial_per = \"card\"").await;
    let begun = shop.try_by_page("4242424242424242").await;
    assert_eq!(begun.ok()["status"], "trialing");

    shop.newcomer().await;
    let again = shop.try_by_page("4242424242424242").await;
    assert_eq!(again.problem(), (409, "trial_used"));
    assert_eq!(shop.world.current().await["status"], Value::Null);
    let made = [("status", "all")];
    let made = shop.world.stripe.list("/v1/subscriptions", &made).await;
    let mut statuses: Vec<&str> = made
        .iter()
        .map(|one| one["status"].as_str().unwrap())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["canceled", "trialing"]);
    shop.world.settle().await;
    assert_eq!(shop.world.plan().await.0, "free");
    let paid = shop.world.stripe.list("/v1/charges", &[]).await;
    assert_eq!(paid, Vec::<Value>::new());
}

#[tokio::test]
async fn of_two_organizations_at_once_one_has_the_trial() {
    let mut shop = Shop::open("one_trial_per = \"card\"").await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        shop.newcomer().await;
        shop.world.customer(VISA).await;
        callers.push(shop.world.token.clone());
    }
    let tries = callers.iter().map(|token| {
        let url = format!("{}{SUBSCRIPTION}", shop.world.service.base);
        let body = json!({"planTier": "standard", "trialDays": 14});
        let client = &shop.world.service.client;
        let request = client.post(url).bearer_auth(token).json(&body);
        async { request.send().await.unwrap().status().as_u16() }
    });
    let mut answers = futures_util::future::join_all(tries).await;
    answers.sort_unstable();
    assert_eq!(answers, [201, 409, 409, 409]);
}
