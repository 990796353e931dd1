//! What is previewed is what is charged, by both sources.

use std::io::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::subscriptions::{Failure, PreviewUnavailable, Subscriptions};
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{DAY, START, Stripe, VISA, World, seconds, text};
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::events::{event, subscription};
use crate::support::service::Options;

#[tokio::test]
async fn the_answer_has_what_the_contract_names() {
    let world = World::start().await;
    world.customer(VISA).await;
    let preview = world.preview("standard").await.ok();
    assert_eq!(
        [
            &preview["currentPlan"],
            &preview["newPlan"],
            &preview["currency"],
            &preview["source"]
        ],
        [
            &json!("free"),
            &json!("standard"),
            &json!("usd"),
            &json!("stripe")
        ]
    );
    assert_eq!(preview["proratedAmountMinor"], 9_900);
    assert_eq!(preview["nextInvoiceAmountMinor"], 9_900);
    assert_eq!(preview["lines"].as_array().unwrap().len(), 1);
    let changes = preview["changes"].as_array().unwrap();
    let tokens = changes
        .iter()
        .find(|change| change["metric"] == "llm_tokens");
    assert_eq!(
        tokens,
        Some(&json!({
            "metric": "llm_tokens", "currentQuota": 10_000, "newQuota": 1_000_000,
            "currentOverageRate": "0", "newOverageRate": "0.00001",
        }))
    );
    let to_unlimited = world.preview("enterprise").await.ok();
    let seats = to_unlimited["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|change| change["metric"] == "user_seats");
    assert_eq!(seats.unwrap()["newQuota"], json!(null));
    assert_eq!(
        to_unlimited["featureChanges"],
        json!([
            {"feature": "projects", "currentValue": 3, "newValue": 1_000},
            {"feature": "sso", "currentValue": false, "newValue": true},
            {"feature": "support", "currentValue": "community", "newValue": "priority"},
        ])
    );
}

/// Versions of before do not say a subscription's currency.
#[tokio::test]
async fn an_end_is_in_the_customers_currency_or_in_none() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Owner).await;
    let mut object = subscription("sub_1", "cus_1", "active", "unheard_of");
    object["currency"] = json!(null);
    service
        .deliver(&event(
            "evt_1",
            "customer.subscription.created",
            100,
            object,
        ))
        .await;
    service.settle().await;
    let preview = async || {
        let request = service.post(super::world::PREVIEW).bearer_auth(&token);
        let answer = request.json(&json!({"planTier": "free"})).send().await;
        let answer = answer.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    let (status, problem) = preview().await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("preview_unavailable")),
        "{problem:#}"
    );
    let eur = "UPDATE billing_customers SET currency = 'eur'";
    service.db.execute(eur).await;
    let (status, quote) = preview().await;
    assert_eq!(
        (status, &quote["currency"]),
        (200, &json!("eur")),
        "{quote:#}"
    );
}

#[tokio::test]
async fn amounts_are_exact_decimals_as_written() {
    let (world, clock, _) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.stripe.advance(&clock, START + 1_234_567).await;
    let request = world
        .service
        .post(super::world::PREVIEW)
        .bearer_auth(&world.token)
        .json(&json!({"planTier": "enterprise"}));
    let text = request.send().await.unwrap().text().await.unwrap();
    // 1,184,633 of 2,419,200 seconds are left: 244.35 less 48.48.
    assert!(text.contains("\"proratedAmount\":195.87,"), "{text}");
    assert!(text.contains("\"nextInvoiceAmount\":499.00,"), "{text}");
    assert!(text.contains("\"proratedAmountMinor\":19587,"), "{text}");
}

/// Plans of many prices and both intervals.
pub const TIERS: [(&str, i64, &str); 6] = [
    ("tiny", 1, "month"),
    ("small", 999, "month"),
    ("medium", 1_000, "month"),
    ("large", 2_999, "month"),
    ("yearly", 99_000, "year"),
    ("huge", 499_999, "month"),
];

pub fn plans(upgrade: &str, downgrade: &str) -> tempfile::NamedTempFile {
    let mut text = format!(
        "[metrics]\napi_calls = {{ aggregation = \"sum\" }}\n\
         [proration]\nupgrade = \"{upgrade}\"\ndowngrade = \"{downgrade}\"\n\
         [[plans]]\ntier = \"free\"\nname = \"Free\"\n\
         price = {{ amount = 0, currency = \"usd\", interval = \"month\" }}\n\
         [plans.quotas]\napi_calls = {{ quota = 1, over_limit = \"hard\" }}\n"
    );
    for (tier, amount, interval) in TIERS {
        text += &format!(
            "[[plans]]\ntier = \"{tier}\"\nname = \"{tier}\"\ntrial_days_max = 20\n\
             price = {{ amount = {amount}, currency = \"usd\", interval = \"{interval}\", lookup_key = \"key_{tier}\" }}\n\
             [plans.quotas]\napi_calls = {{ quota = {amount}, over_limit = \"hard\" }}\n"
        );
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A service with those plans, and its local engine.
struct Arena {
    world: World,
    engine: Subscriptions,
    _plans: tempfile::NamedTempFile,
}

impl Arena {
    async fn open(upgrade: &str, downgrade: &str) -> Self {
        let file = plans(upgrade, downgrade);
        let stripe = Stripe::start().await;
        for (tier, amount, interval) in TIERS {
            let (amount, key) = (amount.to_string(), format!("key_{tier}"));
            let fields = [
                ("currency", "usd"),
                ("unit_amount", &*amount),
                ("recurring[interval]", interval),
                ("product_data[name]", tier),
                ("lookup_key", &*key),
            ];
            stripe.post("/v1/prices", &fields).await;
        }
        let options = Options {
            plans_file: Some(file.path().to_owned()),
            ..Options::default()
        };
        let world = World::with(stripe, options).await;
        let catalogue = Catalogue::load(Some(file.path())).unwrap();
        let engine = Subscriptions::new(
            world.service.db.service_pool(),
            valuecanvas_billing::db::lookup_pool(world.service.db.service(), 1),
            Arc::new(catalogue),
            None,
        );
        Self {
            world,
            engine,
            _plans: file,
        }
    }
}

/// Both previews, which agree wherever the local one knows enough.
struct Previewed {
    stripe: Value,
    local_knew: bool,
}

impl Arena {
    async fn preview(&self, tier: &str, now: i64) -> Previewed {
        let stripe = self.world.preview(tier).await.ok();
        assert_eq!(stripe["source"], "stripe");
        let at = Timestamp::from_second(now).unwrap();
        let local = self
            .engine
            .preview(self.world.organization, tier, None, None, at)
            .await;
        let local_knew = match local {
            Ok(local) => {
                let local = serde_json::to_value(local).unwrap();
                for field in [
                    "currentPlan",
                    "newPlan",
                    "currency",
                    "proratedAmountMinor",
                    "dueNowAmountMinor",
                    "nextInvoiceAmountMinor",
                    "effectiveDate",
                    "nextInvoiceDate",
                    "lines",
                    "changes",
                    "featureChanges",
                ] {
                    assert_eq!(
                        local[field], stripe[field],
                        "{field} of {local:#} and {stripe:#}"
                    );
                }
                true
            }
            Err(Failure::PreviewUnavailable(PreviewUnavailable::StripeOnly(why))) => {
                assert!(why.starts_with("was already changed"), "{why}");
                false
            }
            Err(other) => panic!("{other}"),
        };
        Previewed { stripe, local_knew }
    }
}

/// The life of one subscription: created, changed at random times, renewed.
/// Returns how many previews the local engine could make, too.
async fn live(arena: &mut Arena, seed: u64) -> (u32, u32) {
    let mut dice = Dice::new(seed);
    let world = &mut arena.world;
    let mut now = START + i64::try_from(dice.below(400 * 86_400)).unwrap();
    let clock = world.stripe.clock(now).await;
    let customer = world.newcomer(&clock).await;
    let (mut asked, mut knew) = (0, 0);
    let mut tier = dice.pick(&TIERS).0;
    if dice.one_in(2) {
        let previewed = arena.preview(tier, now).await;
        let world = &arena.world;
        world.change_as(&previewed.stripe).await.ok();
        assert_eq!(
            charged(world, &customer).await,
            previewed.stripe["dueNowAmountMinor"]
        );
    } else {
        // As it may have been made elsewhere.
        let world = &arena.world;
        let mode = dice.pick(&["classic", "flexible"]);
        let prices = [("lookup_keys[]", &*format!("key_{tier}"))];
        let price = text(&world.stripe.list("/v1/prices", &prices).await[0], "id");
        let fields = [
            ("customer", &*customer),
            ("items[0][price]", &price),
            ("billing_mode[type]", mode),
        ];
        world.stripe.post("/v1/subscriptions", &fields).await;
        world.settle().await;
    }
    let world = &arena.world;
    for _ in 0..1 + dice.below(3) {
        let step = dice.pick(&[1, 61, 86_399, 7 * DAY, 20 * DAY, 27 * DAY]);
        now += 1 + i64::try_from(dice.below(usize::try_from(step).unwrap())).unwrap();
        world.stripe.advance(&clock, now).await;
        world.settle().await;
        let others: Vec<&str> = TIERS
            .iter()
            .map(|(other, ..)| *other)
            .filter(|other| *other != tier)
            .collect();
        tier = dice.pick(&others);
        let previewed = arena.preview(tier, now).await;
        (asked, knew) = (asked + 1, knew + u32::from(previewed.local_knew));
        let preview = &previewed.stripe;
        // The customer thinks about it, within the period.
        let end = seconds(&world.current().await["currentPeriodEnd"]);
        let pause = i64::try_from(dice.below(3_000)).unwrap();
        if pause > 0 && now + pause < end {
            now += pause;
            world.stripe.advance(&clock, now).await;
        }
        let before = charged(world, &customer).await;
        world.change_as(preview).await.ok();
        let now_charged = charged(world, &customer).await - before;
        assert_eq!(now_charged, preview["dueNowAmountMinor"], "{preview:#}");
        if dice.one_in(2) {
            let renews = seconds(&preview["nextInvoiceDate"]);
            let before = world.stripe.invoices(&customer).await.len();
            now = renews + 7_200;
            world.stripe.advance(&clock, now).await;
            world.settle().await;
            let invoices = world.stripe.invoices(&customer).await;
            assert_eq!(invoices.len(), before + 1);
            assert_eq!(
                invoices[before]["total"], preview["nextInvoiceAmountMinor"],
                "{preview:#}"
            );
        }
    }
    (asked, knew)
}

/// The sum of all invoices of a customer.
async fn charged(world: &World, customer: &str) -> i64 {
    let invoices = world.stripe.invoices(customer).await;
    invoices
        .iter()
        .map(|invoice| invoice["total"].as_i64().unwrap())
        .sum()
}

#[tokio::test]
async fn what_is_previewed_is_charged_to_the_cent() {
    let cases: u64 = std::env::var("VCB_CASES").map_or(12, |cases| cases.parse().unwrap());
    let (mut asked, mut knew) = (0, 0);
    let behaviors = ["always_invoice", "create_prorations"];
    for (n, (upgrade, downgrade)) in (0..).zip(
        behaviors
            .into_iter()
            .flat_map(|u| behaviors.map(|d| (u, d))),
    ) {
        let mut arena = Arena::open(upgrade, downgrade).await;
        for case in (n..cases).step_by(4) {
            println!("case {case}: {upgrade}, {downgrade}");
            let (more_asked, more_known) = live(&mut arena, case).await;
            (asked, knew) = (asked + more_asked, knew + more_known);
        }
    }
    println!("{asked} previews, {knew} of them by the local engine as well");
    assert!(knew * 4 > asked, "the local engine knew {knew} of {asked}");
}
