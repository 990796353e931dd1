//! What a preview says with codes and taxes is what is invoiced, at once and next.

use std::io::Write as _;

use serde_json::{Value, json};

use super::previews::{TIERS, plans};
use super::promotion_codes::{code, coupon, invoiced};
use super::world::{DAY, START, Stripe, World, seconds};
use crate::support::dice::Dice;
use crate::support::service::Options;

/// A stand-in whose prices include tax, or do not.
async fn fair(file: &tempfile::NamedTempFile, tax_behavior: &str) -> World {
    let stripe = Stripe::start().await;
    for (tier, amount, interval) in TIERS {
        let (amount, key) = (amount.to_string(), format!("key_{tier}"));
        let fields = [
            ("currency", "usd"),
            ("unit_amount", &*amount),
            ("recurring[interval]", interval),
            ("product_data[name]", tier),
            ("lookup_key", &*key),
            ("tax_behavior", tax_behavior),
        ];
        stripe.post("/v1/prices", &fields).await;
    }
    let options = Options {
        plans_file: Some(file.path().to_owned()),
        ..Options::default()
    };
    World::with(stripe, options).await
}

/// A customer with codes to redeem.
struct Buyer<'a> {
    world: &'a World,
    customer: String,
    clock: String,
    now: i64,
    seed: u64,
    codes: u32,
}

impl Buyer<'_> {
    /// A code with random terms.
    async fn code(&mut self, dice: &mut Dice, by_amount: bool) -> String {
        let off = match by_amount {
            true => dice.pick(&["1", "77", "500", "12345"]),
            false => dice.pick(&["1", "12.5", "33.33", "50", "99.99", "100"]),
        };
        let mut terms = match by_amount {
            true => vec![("amount_off", off), ("currency", "usd")],
            false => vec![("percent_off", off)],
        };
        match dice.below(3) {
            0 => terms.push(("duration", "once")),
            1 => terms.push(("duration", "forever")),
            _ => {
                let months = dice.pick(&["1", "2", "3", "12"]);
                terms.extend([("duration", "repeating"), ("duration_in_months", months)]);
            }
        }
        self.codes += 1;
        let name = format!("CASE{}-{}", self.seed, self.codes);
        let coupon = coupon(&self.world.stripe, &terms).await;
        code(&self.world.stripe, &name, &coupon, &[]).await;
        println!("  {name}: {terms:?}");
        name
    }

    async fn advance(&mut self, to: i64) {
        self.now = to;
        self.world.stripe.advance(&self.clock, to).await;
        self.world.settle().await;
    }

    /// Previews a change, makes it, and perhaps lives to see the next invoice.
    async fn change(&mut self, dice: &mut Dice, tier: &str, code: Option<&str>) {
        let world = self.world;
        let preview = match code {
            Some(code) => world.preview_with(tier, code).await.ok(),
            None => world.preview(tier).await.ok(),
        };
        adds_up(&preview);
        println!(
            "  {tier} with {code:?}: {} now, {} next",
            preview["dueNowAmountMinor"], preview["nextInvoiceAmountMinor"]
        );
        let before = invoiced(world, &self.customer).await;
        world.change_as(&preview).await.ok();
        let charged = invoiced(world, &self.customer).await - before;
        assert_eq!(charged, preview["dueNowAmountMinor"], "{preview:#}");
        world.settle().await;
        if dice.one_in(2) {
            let before = world.stripe.invoices(&self.customer).await.len();
            self.advance(seconds(&preview["nextInvoiceDate"]) + 7_200)
                .await;
            let invoices = world.stripe.invoices(&self.customer).await;
            assert_eq!(invoices.len(), before + 1, "{preview:#}");
            assert_eq!(
                invoices[before]["total"], preview["nextInvoiceAmountMinor"],
                "{preview:#} {:#}",
                invoices[before]
            );
        }
    }
}

/// The parts of a preview are the whole.
pub fn adds_up(preview: &Value) {
    let number = |value: &Value, name: &str| value[name].as_i64().unwrap();
    for (totals, total) in [
        ("totals", "proratedAmountMinor"),
        ("nextInvoiceTotals", "nextInvoiceAmountMinor"),
    ] {
        let totals = &preview[totals];
        let sum = number(totals, "subtotalAmount") - number(totals, "discountAmount")
            + number(totals, "taxAmount")
            - number(totals, "includedTaxAmount");
        assert_eq!(sum, number(totals, "totalAmount"), "{preview:#}");
        assert_eq!(sum, number(preview, total), "{preview:#}");
    }
    let lines = preview["lines"].as_array().unwrap();
    for (line, whole) in [
        ("amount", "subtotalAmount"),
        ("discountAmount", "discountAmount"),
        ("taxAmount", "taxAmount"),
        ("includedTaxAmount", "includedTaxAmount"),
    ] {
        let sum: i64 = lines.iter().map(|one| number(one, line)).sum();
        assert_eq!(sum, number(&preview["totals"], whole), "{line} {preview:#}");
    }
}

/// The life of one subscription. The stand-in prorates percentages only.
async fn live(world: &mut World, seed: u64) {
    let mut dice = Dice::new(seed);
    let now = START + i64::try_from(dice.below(400 * 86_400)).unwrap();
    let clock = world.stripe.clock(now).await;
    let customer = world.newcomer(&clock).await;
    let country = dice.pick(&["DE", "FR", "SE", "JP"]);
    let path = format!("/v1/customers/{customer}");
    world
        .stripe
        .post(&path, &[("address[country]", country)])
        .await;
    world.settle().await;
    let by_amount = dice.one_in(3);
    let mut tier = dice.pick(&TIERS).0;
    let mut buyer = Buyer {
        world,
        customer,
        clock,
        now,
        seed,
        codes: 0,
    };
    let first = match dice.one_in(3) {
        true => None,
        false => Some(buyer.code(&mut dice, by_amount).await),
    };
    buyer.change(&mut dice, tier, first.as_deref()).await;
    for _ in 0..1 + dice.below(3) {
        let step = dice.pick(&[61, 86_399, 7 * DAY, 20 * DAY, 27 * DAY]);
        let step = 1 + i64::try_from(dice.below(usize::try_from(step).unwrap())).unwrap();
        buyer.advance(buyer.now + step).await;
        let code = match by_amount || dice.one_in(2) {
            true => Some(buyer.code(&mut dice, by_amount).await),
            false => None,
        };
        let stays = by_amount || (code.is_some() && dice.one_in(3));
        if !stays {
            let others = TIERS.map(|(other, ..)| other);
            let others: Vec<&str> = others.into_iter().filter(|other| *other != tier).collect();
            tier = dice.pick(&others);
        }
        buyer.change(&mut dice, tier, code.as_deref()).await;
    }
}

#[tokio::test]
async fn what_is_previewed_with_codes_and_taxes_is_charged_to_the_cent() {
    let cases: u64 = std::env::var("VCB_CASES").map_or(8, |cases| cases.parse().unwrap());
    let worlds = [
        ("always_invoice", "create_prorations", "exclusive", true),
        ("create_prorations", "always_invoice", "inclusive", true),
        ("always_invoice", "always_invoice", "exclusive", false),
        ("create_prorations", "create_prorations", "exclusive", true),
    ];
    for (n, (upgrade, downgrade, behavior, taxed)) in (0..).zip(worlds) {
        let mut file = plans(upgrade, downgrade);
        writeln!(file, "[tax]\nautomatic = {taxed}").unwrap();
        let mut world = fair(&file, behavior).await;
        for case in (n..cases).step_by(4) {
            println!("case {case}: {upgrade}, {downgrade}, {behavior}, taxed: {taxed}");
            live(&mut world, case).await;
        }
    }
}

#[tokio::test]
async fn a_free_first_invoice_needs_no_card_that_pays() {
    let file = plans("always_invoice", "create_prorations");
    let world = fair(&file, "exclusive").await;
    world.customer(super::world::VISA).await;
    let all = coupon(
        &world.stripe,
        &[("percent_off", "100"), ("duration", "once")],
    )
    .await;
    code(&world.stripe, "GIFT", &all, &[]).await;
    let preview = world.preview_with("small", "GIFT").await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 0);
    assert_eq!(preview["nextInvoiceAmountMinor"], 999);
    // A line that a discount takes away is still a line.
    assert_eq!(preview["lines"][0]["discountAmount"], json!(999));
    world.change_as(&preview).await.ok();
    assert_eq!(world.current().await["status"], "active");
}
