//! Random histories of changed files, syncs, restarts, changes of plan, edits in the
//! dashboard, operators' quotas and lost webhooks: whatever happens, nobody loses a plan,
//! the overage that our API shows is what Stripe's upcoming invoice has, and what was
//! over a quota when its price went is charged, once.

use uuid::Uuid;

use super::shop::Shop;
use super::usage_at_changes::{change_in_stripe, charged};
use crate::metering::tenant::Tenant;
use crate::support::dice::Dice;

const ROUNDS: usize = 14;

/// `VCB_CASES` raises the number of histories, `VCB_SEED` tells the first.
fn setting(name: &str, default: u64) -> u64 {
    let asked = std::env::var(name).ok();
    asked.map_or(default, |text| text.parse().expect("it is a number"))
}

/// What the file may say.
const FEES: [&str; 3] = ["9_900", "10_900", "8_900"];
const RATES: [&str; 3] = ["0.001", "0.002", "0.0005"];
const QUOTAS: [&str; 3] = ["5_000", "8_000", "3_000"];
const HIGHER_FEES: [&str; 2] = ["49_900", "59_900"];

struct Subscriber {
    organization: Uuid,
    token: String,
    customer: String,
    tier: &'static str,
    /// What changes of plan must have charged for usage.
    charged: i64,
}

struct History {
    shop: Shop,
    dice: Dice,
    subscribers: Vec<Subscriber>,
    log: Vec<String>,
}

#[tokio::test]
async fn nobody_loses_a_plan_and_overage_is_what_stripe_bills() {
    let (cases, first) = (
        setting("VCB_CASES", 200).div_ceil(100),
        setting("VCB_SEED", 1),
    );
    for seed in first..first + cases {
        let mut history = History::begin(seed).await;
        for _ in 0..ROUNDS {
            history.round().await;
            history.compare(seed).await;
        }
    }
}

impl History {
    async fn begin(seed: u64) -> Self {
        let shop = Shop::open(&[]).await;
        let mut history = Self {
            shop,
            dice: Dice::new(seed),
            subscribers: Vec::new(),
            log: Vec::new(),
        };
        history.subscribe("standard").await;
        history
    }

    async fn subscribe(&mut self, tier: &'static str) {
        let customer = self.shop.subscriber(tier).await;
        self.subscribers.push(Subscriber {
            organization: self.shop.world.organization,
            token: self.shop.world.token.clone(),
            customer,
            tier,
            charged: 0,
        });
        self.log.push(format!("somebody buys {tier}"));
    }

    /// The calls are this subscriber's from now on.
    fn act_as(&mut self, n: usize) {
        let one = &self.subscribers[n];
        self.shop.world.organization = one.organization;
        self.shop.world.token.clone_from(&one.token);
    }

    fn edit(&mut self) {
        let dice = &mut self.dice;
        let fee = format!("amount = {}", dice.pick(&FEES));
        let rate = format!("overage_rate = \"{}\"", dice.pick(&RATES));
        let quota = format!("quota = {}", dice.pick(&QUOTAS));
        let higher = format!("amount = {}", dice.pick(&HIGHER_FEES));
        self.log
            .push(format!("the file: {fee}, {rate}, {quota}, {higher}"));
        self.shop.rewrite(&[
            ("amount = 9_900", &fee),
            ("overage_rate = \"0.001\"", &rate),
            ("quota = 5_000", &quota),
            ("amount = 49_900", &higher),
        ]);
    }

    async fn round(&mut self) {
        match self.dice.below(9) {
            0 => self.edit(),
            1 => {
                self.log.push("sync".to_owned());
                self.shop.sync().await;
            }
            2 => {
                self.log.push("restart".to_owned());
                self.shop.restart().await;
            }
            3 => {
                self.edit();
                self.shop.sync().await;
                self.shop.restart().await;
                self.log.push("sync and restart".to_owned());
            }
            4 => {
                let tier = self.dice.pick(&["standard", "enterprise"]);
                self.subscribe(tier).await;
            }
            _ => self.live().await,
        }
    }

    /// A subscriber does something, and perhaps its webhooks are lost.
    async fn live(&mut self) {
        let n = self.dice.below(self.subscribers.len());
        self.act_as(n);
        let lost = self.dice.one_in(3);
        if lost {
            self.shop.world.deliver_nothing().await;
        }
        let customer = self.subscribers[n].customer.clone();
        let over = self.shop.overage().await;
        let what = match self.dice.below(6) {
            0 => {
                let one = &mut self.subscribers[n];
                one.charged += over;
                one.tier = match one.tier {
                    "standard" => "enterprise",
                    _ => "standard",
                };
                let tier = one.tier;
                self.shop.world.change(tier).await.ok();
                format!("changes to {tier}")
            }
            4 => {
                let organization = self.subscribers[n].organization;
                let key = String::new();
                let limit = self.dice.pick(&["2000", "7000", "30000", "plan"]);
                let service = &self.shop.world.service;
                Tenant { organization, key }
                    .set_quota(service, "agent_executions", limit, None)
                    .await;
                format!("is given a quota of {limit}")
            }
            5 if !lost => {
                let one = &mut self.subscribers[n];
                one.charged += over;
                one.tier = match one.tier {
                    "standard" => "enterprise",
                    _ => "standard",
                };
                let tier = one.tier;
                change_in_stripe(&self.shop, &customer, tier).await;
                format!("is given {tier} in the dashboard")
            }
            1 => {
                self.shop.touch(&customer).await;
                "is edited in the dashboard".to_owned()
            }
            2 => {
                self.shop.uses("agent_executions", "2500").await;
                "uses 2500 agent_executions".to_owned()
            }
            _ => {
                self.shop.uses("api_calls", "90000").await;
                "uses 90000 api_calls".to_owned()
            }
        };
        if lost {
            self.shop.world.deliver_again().await;
        }
        self.log.push(format!(
            "{n} {what}{}",
            if lost { ", webhooks are lost" } else { "" }
        ));
    }

    async fn compare(&mut self, seed: u64) {
        self.shop.world.settle().await;
        // What changed twice within a second is asked for again.
        self.shop.world.settled_in_the_background().await;
        self.shop.report().await;
        for n in 0..self.subscribers.len() {
            self.act_as(n);
            let (customer, tier) = (
                self.subscribers[n].customer.clone(),
                self.subscribers[n].tier,
            );
            let plan = self.shop.world.plan().await;
            let ours = self.shop.overage().await;
            let theirs = self.shop.metered_lines(&customer).await;
            let expected = self.subscribers[n].charged;
            let items: i64 = charged(&self.shop, &customer).await.iter().sum();
            let preview = match tier {
                "standard" => "enterprise",
                _ => "standard",
            };
            let answer = self.shop.world.preview(preview).await;
            let (changeable, body) = (answer.status, answer.body);
            assert!(
                plan == (tier.to_owned(), tier.to_owned())
                    && ours == theirs
                    && changeable == 200
                    && items == expected,
                "VCB_CASES=100 VCB_SEED={seed}: {n} has {plan:?} for {tier}, overage {ours} for {theirs}, charged {items} for {expected}, \
                 preview {changeable} {body}\n  {}",
                self.log.join("\n  ")
            );
        }
    }
}
