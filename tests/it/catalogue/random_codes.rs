//! What is previewed with promotion codes is what is charged, whatever else is bought:
//! random plans, intervals, currencies and seats, at once and when the period ends.

use serde_json::{Value, json};

use super::random_terms::{INTERVALS, TIERS, plans};
use super::shop::Shop;
use crate::subscriptions::discounted::adds_up;
use crate::subscriptions::later::PENDING;
use crate::subscriptions::promotion_codes::{code, coupon, invoiced};
use crate::subscriptions::world::{DAY, START, seconds};
use crate::support::dice::Dice;

struct Buyer {
    shop: Shop,
    codes: u32,
    /// Changes that were made, and those of them that redeemed a code.
    made: (u32, u32),
}

impl Buyer {
    /// A code that takes a percentage off: the stand-in prorates no amounts.
    async fn code(&mut self, dice: &mut Dice) -> String {
        let stripe = &self.shop.world.stripe;
        let mut terms = vec![("percent_off", dice.pick(&["1", "12.5", "33.33", "100"]))];
        match dice.below(3) {
            0 => terms.push(("duration", "once")),
            1 => terms.push(("duration", "forever")),
            _ => {
                let months = dice.pick(&["1", "2", "3", "14"]);
                terms.extend([("duration", "repeating"), ("duration_in_months", months)]);
            }
        }
        self.codes += 1;
        let name = format!("CODE{}", self.codes);
        let coupon = coupon(stripe, &terms).await;
        code(stripe, &name, &coupon, &[]).await;
        println!("  {name}: {terms:?}");
        name
    }

    async fn wish(&mut self, dice: &mut Dice, is_first: bool) -> Value {
        let (tier, _, seats) = dice.pick(&TIERS);
        let mut wish = json!({"planTier": tier});
        if !dice.one_in(3) {
            wish["interval"] = json!(dice.pick(&INTERVALS));
        }
        if !seats.is_empty() && !dice.one_in(4) {
            wish["quantity"] = json!(3 + dice.number() % 40);
        }
        if is_first {
            wish["currency"] = json!(dice.pick(&["eur", "jpy", "usd"]));
        } else {
            wish["when"] = json!(dice.pick(&["now", "period_end"]));
        }
        if dice.one_in(2) {
            wish["promotionCode"] = json!(self.code(dice).await);
        }
        wish
    }

    /// Previews a change and makes it; `None` if there is none.
    async fn take(&mut self, wish: &Value, customer: &str) -> Option<Value> {
        let world = &self.shop.world;
        // The phase of a change that was made goes on for a day.
        let pending =
            !world.current().await["pendingChange"].is_null() || self.has_schedule().await;
        let previewed = self.shop.previewed(wish.clone()).await;
        match previewed.problem() {
            (409, "same_plan") => return None,
            // Of another interval or a code beside a schedule.
            (409, "change_pending" | "preview_unavailable") if pending => return None,
            // A discount may be used up by invoices of usage before the year ends.
            (409, "preview_unavailable") if wish["when"] == "period_end" => {
                assert_eq!(world.current().await["interval"], "year", "{wish}");
                return None;
            }
            _ => {}
        }
        let preview = previewed.ok();
        let was_classic = self.billing_mode(customer).await == "classic";
        println!(
            "  {wish}: {} now, {} next",
            preview["dueNowAmountMinor"], preview["nextInvoiceAmountMinor"]
        );
        adds_up(&preview);
        let before = invoiced(world, customer).await;
        let mut body = wish.clone();
        body["previewToken"] = preview["previewToken"].clone();
        let mut answer = self.shop.put(body.clone()).await;
        let mut preview = preview;
        // Flexible billing credits discounted time otherwise: what it charges is shown
        // once the subscription is in it.
        if answer.problem() == (409, "preview_stale") && was_classic {
            assert_eq!(invoiced(world, customer).await, before, "{wish}");
            preview = self.shop.previewed(wish.clone()).await.ok();
            let next = &preview["nextInvoiceAmountMinor"];
            println!("  again: {} now, {next} next", preview["dueNowAmountMinor"]);
            body["previewToken"] = preview["previewToken"].clone();
            answer = self.shop.put(body).await;
        }
        answer.ok();
        let charged = invoiced(world, customer).await - before;
        assert_eq!(charged, preview["dueNowAmountMinor"], "{wish} {preview:#}");
        self.made.0 += 1;
        self.made.1 += u32::from(wish["promotionCode"].is_string());
        self.settle().await;
        Some(preview)
    }

    async fn billing_mode(&self, customer: &str) -> String {
        let world = &self.shop.world;
        let of = [("customer", customer)];
        let running = world.stripe.list("/v1/subscriptions", &of).await;
        let running = running.into_iter().next();
        let mode = running.map_or(Value::Null, |one| one["billing_mode"]["type"].clone());
        mode.as_str().unwrap_or_default().to_owned()
    }

    async fn settle(&self) {
        self.shop.world.settle().await;
        self.shop.world.settled_in_the_background().await;
    }

    async fn has_schedule(&self) -> bool {
        let schedules = "SELECT count(stripe_schedule_id) FROM billing_subscriptions
                          WHERE organization_id = $org AND ended_at IS NULL";
        self.shop.value(schedules).await != "0"
    }

    /// Stripe advances by two intervals at most, of a month perhaps.
    async fn advance(&self, clock: &str, from: i64, to: i64) {
        let mut at = from;
        while at < to {
            at = to.min(at + 50 * DAY);
            self.shop.world.stripe.advance(clock, at).await;
            self.settle().await;
        }
    }

    async fn live(&mut self, seed: u64) {
        let mut dice = Dice::new(seed);
        let mut now = START + i64::try_from(dice.below(400 * 86_400)).unwrap();
        let (customer, clock) = self.shop.customer_at(now).await;
        let first = self.wish(&mut dice, true).await;
        self.take(&first, &customer).await.expect("it is the first");
        for _ in 0..1 + dice.below(4) {
            let step = dice.pick(&[1, 61, 86_399, 7 * DAY, 20 * DAY, 27 * DAY, 300 * DAY]);
            let until =
                now + 1 + i64::try_from(dice.below(usize::try_from(step).unwrap())).unwrap();
            self.advance(&clock, now, until).await;
            now = until;
            let wish = self.wish(&mut dice, false).await;
            let Some(preview) = self.take(&wish, &customer).await else {
                continue;
            };
            if dice.one_in(4) {
                continue;
            }
            let world = &self.shop.world;
            let count = world.stripe.invoices(&customer).await.len();
            let until = seconds(&preview["nextInvoiceDate"]) + 7_200;
            self.advance(&clock, now, until).await;
            now = until;
            let mut invoices = world.stripe.invoices(&customer).await;
            // Those of usage may come before the year ends.
            let is_later = wish["when"] == "period_end";
            let is_next = invoices.len() == count + 1;
            assert!(
                is_next || (is_later && invoices.len() > count),
                "{wish} {preview:#}"
            );
            let invoice = invoices.pop().unwrap();
            assert_eq!(
                invoice["total"], preview["nextInvoiceAmountMinor"],
                "{wish} {preview:#} {invoice:#}"
            );
            world.call(reqwest::Method::DELETE, PENDING, None).await;
        }
    }
}

#[tokio::test]
async fn whatever_is_bought_with_codes_costs_what_was_previewed() {
    let cases: u64 = std::env::var("VCB_CASES").map_or(8, |cases| cases.parse().unwrap());
    let first: u64 = std::env::var("VCB_SEED").map_or(0, |seed| seed.parse().unwrap());
    let (mut made, mut redeemed) = (0, 0);
    for (n, (upgrade, downgrade)) in (0..).zip([
        ("always_invoice", "create_prorations"),
        ("create_prorations", "always_invoice"),
    ]) {
        let mut buyer = Buyer {
            shop: Shop::selling(plans(upgrade, downgrade)).await,
            codes: 0,
            made: (0, 0),
        };
        for case in (first + n..first + cases).step_by(2) {
            println!("case {case}: {upgrade}, {downgrade}");
            buyer.live(case).await;
        }
        (made, redeemed) = (made + buyer.made.0, redeemed + buyer.made.1);
    }
    println!("{made} changes, {redeemed} of them with a code");
    assert!(redeemed * 4 > made, "{redeemed} codes in {made} changes");
}
