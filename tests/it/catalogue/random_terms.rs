//! What is previewed is what is charged, whatever is bought: random plans, intervals,
//! currencies, seats and times, by Stripe and by the local engine where it knows enough.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::Interval;
use valuecanvas_billing::subscriptions::{Failure, PreviewUnavailable, Selection, Subscriptions};

use super::shop::Shop;
use crate::subscriptions::world::{DAY, START, seconds};
use crate::support::dice::Dice;

const CURRENCIES: [&str; 3] = ["eur", "jpy", "usd"];
pub const INTERVALS: [Interval; 2] = [Interval::Month, Interval::Year];
/// A flat fee beside usage; a fee for each seat; seats beside the fee, and usage.
pub const TIERS: [(&str, i64, &str); 4] = [
    ("flat", 999, ""),
    (
        "each",
        1_001,
        "[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n",
    ),
    ("beside", 2_950, "beside"),
    (
        "dear",
        49_999,
        "[plans.seats]\nmetric = \"user_seats\"\nincluded = 2\nmode = \"licensed\"\n",
    ),
];

fn interval(of: Interval) -> &'static str {
    of.as_str()
}

pub fn plans(upgrade: &str, downgrade: &str) -> String {
    let mut text = format!(
        "[metrics]\napi_calls = {{ aggregation = \"sum\" }}\nuser_seats = {{ aggregation = \"last\" }}\n\
         [proration]\nupgrade = \"{upgrade}\"\ndowngrade = \"{downgrade}\"\n\
         [[plans]]\ntier = \"free\"\nname = \"Free\"\n\
         price = {{ amount = 0, currency = \"usd\", interval = \"month\" }}\n[plans.quotas]\n\
         api_calls = {{ quota = 1, over_limit = \"hard\" }}\nuser_seats = {{ quota = 1, over_limit = \"hard\" }}\n"
    );
    for (tier, amount, seats) in TIERS {
        text += &format!("[[plans]]\ntier = \"{tier}\"\nname = \"{tier}\"\ntrial_days_max = 20\n");
        let mut of_seats = String::new();
        for (n, currency) in (1..).zip(CURRENCIES) {
            for of in INTERVALS {
                let (amount, interval) = (amount * n * of_year(of, 10), interval(of));
                text += &format!(
                    "[[plans.prices]]\ninterval = \"{interval}\"\ncurrency = \"{currency}\"\n\
                     amount = {amount}\nlookup_key = \"{tier}_{currency}_{interval}\"\n"
                );
                of_seats += &format!(
                    "{{ interval = \"{interval}\", currency = \"{currency}\", amount = {} }}, ",
                    333 * n * of_year(of, 9)
                );
            }
        }
        text += &match seats {
            "beside" => format!(
                "[plans.seats]\nmetric = \"user_seats\"\nincluded = 3\nmode = \"licensed\"\n\
                 price = [{of_seats}]\n"
            ),
            seats => seats.to_owned(),
        };
        // Usage of two plans is billed, by the month in either interval.
        text += match tier {
            "flat" | "beside" => {
                "[plans.quotas]\napi_calls = { quota = 5, over_limit = \"overage\", \
                 overage_rate = { eur = \"0.01\", jpy = \"1\", usd = \"0.02\" } }\n"
            }
            _ => "[plans.quotas]\napi_calls = { quota = 5, over_limit = \"hard\" }\n",
        };
        if seats.is_empty() {
            text += "user_seats = { quota = 7, over_limit = \"hard\" }\n";
        }
    }
    text
}

fn of_year(of: Interval, times: i64) -> i64 {
    match of {
        Interval::Month => 1,
        Interval::Year => times,
    }
}

struct Life {
    shop: Shop,
    engine: Subscriptions,
    asked: u32,
    knew: u32,
}

/// What is asked for.
#[derive(Debug, Clone)]
struct Wish {
    tier: &'static str,
    interval: Option<Interval>,
    currency: Option<&'static str>,
    seats: Option<u64>,
}

impl Wish {
    fn roll(dice: &mut Dice, currency: Option<&'static str>) -> Self {
        let (tier, _, seats) = dice.pick(&TIERS);
        let some = [Some(Interval::Month), Some(Interval::Year), None];
        let seats = match seats.is_empty() || dice.one_in(4) {
            true => None,
            false => Some(3 + dice.number() % 40),
        };
        Self {
            tier,
            interval: dice.pick(&some),
            currency,
            seats,
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"planTier": self.tier});
        if let Some(of) = self.interval {
            body["interval"] = json!(of);
        }
        if let Some(currency) = self.currency {
            body["currency"] = json!(currency);
        }
        if let Some(seats) = self.seats {
            body["quantity"] = json!(seats);
        }
        body
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            tier: self.tier,
            interval: self.interval,
            currency: self.currency,
            quantity: self.seats,
            addons: None,
        }
    }
}

impl Life {
    async fn open(upgrade: &str, downgrade: &str) -> Self {
        let shop = Shop::selling(plans(upgrade, downgrade)).await;
        let service = &shop.world.service;
        let engine = Subscriptions::new(
            service.db.service_pool(),
            valuecanvas_billing::db::lookup_pool(service.db.service(), 1),
            Arc::new(shop.catalogue()),
            None,
        );
        Self {
            shop,
            engine,
            asked: 0,
            knew: 0,
        }
    }

    /// Stripe's preview; `None` if nothing would change. The local one is the same.
    async fn preview(&mut self, wish: &Wish, now: i64) -> Option<Value> {
        let stripe = self.shop.previewed(wish.body()).await;
        if stripe.problem() == (409, "same_plan") {
            return None;
        }
        let stripe = stripe.ok();
        self.asked += 1;
        let at = Timestamp::from_second(now).unwrap();
        let organization = self.shop.world.organization;
        match self
            .engine
            .preview(organization, wish.selection(), None, None, at)
            .await
        {
            Ok(local) => {
                let local = serde_json::to_value(local).unwrap();
                for field in [
                    "newPlan",
                    "interval",
                    "quantity",
                    "currency",
                    "proratedAmountMinor",
                    "dueNowAmountMinor",
                    "nextInvoiceAmountMinor",
                    "nextInvoiceDate",
                    "lines",
                    "changes",
                ] {
                    assert_eq!(
                        local[field], stripe[field],
                        "{field} of {wish:?}: {local:#} and {stripe:#}"
                    );
                }
                self.knew += 1;
            }
            Err(Failure::PreviewUnavailable(PreviewUnavailable::StripeOnly(_))) => {}
            Err(other) => panic!("{other}"),
        }
        Some(stripe)
    }

    async fn charged(&self, customer: &str) -> i64 {
        let invoices = self.shop.world.stripe.invoices(customer).await;
        let totals = invoices
            .iter()
            .map(|invoice| invoice["total"].as_i64().unwrap());
        totals.sum()
    }

    async fn live(&mut self, seed: u64) {
        let mut dice = Dice::new(seed);
        let mut now = START + i64::try_from(dice.below(400 * 86_400)).unwrap();
        let (customer, clock) = self.shop.customer_at(now).await;
        let currency = dice.pick(&[None, Some("eur"), Some("jpy"), Some("usd")]);
        let mut wish = Wish::roll(&mut dice, currency);
        let preview = self.preview(&wish, now).await.expect("it is the first");
        self.take(&wish, &preview, &customer).await;
        for _ in 0..1 + dice.below(3) {
            let step = dice.pick(&[1, 61, 86_399, 7 * DAY, 20 * DAY, 27 * DAY, 300 * DAY]);
            let until =
                now + 1 + i64::try_from(dice.below(usize::try_from(step).unwrap())).unwrap();
            // Stripe advances by two intervals at most, of a month perhaps.
            while now < until {
                now = until.min(now + 50 * DAY);
                self.shop.world.stripe.advance(&clock, now).await;
                self.shop.world.settle().await;
            }
            wish = Wish::roll(&mut dice, None);
            let Some(preview) = self.preview(&wish, now).await else {
                continue;
            };
            self.take(&wish, &preview, &customer).await;
            if dice.one_in(2) {
                let count = self.shop.world.stripe.invoices(&customer).await.len();
                now = seconds(&preview["nextInvoiceDate"]) + 7_200;
                self.shop.world.stripe.advance(&clock, now).await;
                self.shop.world.settle().await;
                let invoices = self.shop.world.stripe.invoices(&customer).await;
                assert_eq!(invoices.len(), count + 1, "{preview:#}");
                assert_eq!(
                    invoices[count]["total"], preview["nextInvoiceAmountMinor"],
                    "{wish:?} {preview:#}"
                );
            }
        }
    }

    /// Makes the change that was previewed, and compares.
    async fn take(&self, wish: &Wish, preview: &Value, customer: &str) {
        let before = self.charged(customer).await;
        let mut body = wish.body();
        body["previewToken"] = preview["previewToken"].clone();
        let changed = self.shop.put(body).await.ok();
        for field in ["interval", "quantity", "currency"] {
            assert_eq!(
                changed[field], preview[field],
                "{field} {wish:?} {preview:#}"
            );
        }
        let paid = self.charged(customer).await;
        assert_eq!(
            paid - before,
            preview["dueNowAmountMinor"],
            "{wish:?} {preview:#}"
        );
        self.shop.world.settle().await;
        let seats = "SELECT coalesce(plan_seats::text, 'null') FROM organizations WHERE id = $org";
        assert_eq!(
            self.shop.value(seats).await,
            preview["quantity"].to_string()
        );
        let limit = "SELECT trim_scale(quota) FROM usage_quotas
                      WHERE organization_id = $org AND metric = 'user_seats'";
        let bought = preview["quantity"].as_i64().unwrap_or(7);
        assert_eq!(self.shop.value(limit).await, bought.to_string());
    }
}

#[tokio::test]
async fn whatever_is_bought_costs_what_was_previewed() {
    let cases: u64 = std::env::var("VCB_CASES").map_or(8, |cases| cases.parse().unwrap());
    let first: u64 = std::env::var("VCB_SEED").map_or(0, |seed| seed.parse().unwrap());
    let (mut asked, mut knew) = (0, 0);
    for (n, (upgrade, downgrade)) in (0..).zip([
        ("always_invoice", "create_prorations"),
        ("create_prorations", "always_invoice"),
    ]) {
        let mut life = Life::open(upgrade, downgrade).await;
        for case in (first + n..first + cases).step_by(2) {
            println!("case {case}: {upgrade}, {downgrade}");
            life.live(case).await;
        }
        (asked, knew) = (asked + life.asked, knew + life.knew);
    }
    println!("{asked} previews, {knew} of them by the local engine as well");
    assert!(knew * 5 > asked, "the local engine knew {knew} of {asked}");
}
