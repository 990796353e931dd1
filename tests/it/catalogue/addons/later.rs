//! Add-ons at the period's end, and beside changes that are pending.

use serde_json::{Value, json};

use super::{PRICE, PRICES, of, subscribed, with};
use crate::catalogue::shop::Shop;
use crate::subscriptions::later::RENEWAL;

const SEATS: (&str, &str) = (
    "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n",
    "",
);
const BY_THE_SEAT: (&str, &str) = (
    "trial_days_max = 30\n",
    "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n",
);

fn at_the_end(mut wish: Value) -> Value {
    wish["when"] = json!("period_end");
    wish
}

/// The period ends, and the invoice that begins the next one is paid.
async fn renewed(shop: &Shop, customer: &str, clock: &str) -> i64 {
    shop.world.stripe.advance(clock, RENEWAL + 7_200).await;
    shop.world.settle().await;
    // Of events of one second, Stripe is asked for what is true.
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);
    let paid = &shop.invoice(customer).await["amount_paid"];
    paid.as_i64().unwrap()
}

#[tokio::test]
async fn addons_change_with_the_next_period_or_are_called_off() {
    let (shop, customer, clock) = subscribed(&[], json!([of("extra_tokens", 3)])).await;
    let wish = at_the_end(with(json!([of("extra_tokens", 1), of("care", 1)])));
    let shown = shop.previewed(wish).await.ok();
    assert_eq!(shown["dueNowAmountMinor"], 0);
    assert_eq!(
        shown["nextInvoiceAmountMinor"],
        9_900 + 2_000 + 4_000,
        "{shown:#}"
    );
    let changed = shop.world.change_as(&shown).await.ok();
    assert_eq!(changed["addons"], json!([of("extra_tokens", 3)]));
    let pending = json!([of("care", 1), of("extra_tokens", 1)]);
    assert_eq!(changed["pendingChange"]["addons"], pending);
    shop.world.settle().await;
    assert_eq!(shop.world.current().await, changed);
    assert_eq!(shop.limit_of("llm_tokens").await, 2_500_000);
    // It is called off, and asked for again.
    shop.world.call_off().await.ok();
    shop.world.settle().await;
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);
    let wish = at_the_end(with(json!(["care", of("extra_tokens", 1)])));
    shop.put(wish).await.ok();
    assert_eq!(renewed(&shop, &customer, &clock).await, 15_900);
    assert_eq!(shop.addons().await, pending);
    assert_eq!(shop.limit_of("llm_tokens").await, 1_500_000);
}

#[tokio::test]
async fn addons_survive_another_plan_that_is_pending_and_follow_into_it() {
    let (shop, customer, clock) =
        subscribed(&[], json!([of("extra_tokens", 1), of("care", 1)])).await;
    let changed = shop
        .put(at_the_end(json!({"planTier": "enterprise"})))
        .await
        .ok();
    let kept = json!([of("extra_tokens", 1)]);
    assert_eq!(changed["pendingChange"]["addons"], kept, "{changed:#}");
    shop.world.settle().await;
    // More of them now are more of them then.
    let wish = with(json!([of("extra_tokens", 4), of("care", 1)]));
    let shown = shop.previewed(wish).await.ok();
    assert_eq!(shown["dueNowAmountMinor"], 3 * 1_500, "{shown:#}");
    let next = 49_900 + 4 * 2_000;
    assert_eq!(shown["nextInvoiceAmountMinor"], next, "{shown:#}");
    let changed = shop.world.change_as(&shown).await.ok();
    assert_eq!(
        changed["pendingChange"]["addons"],
        json!([of("extra_tokens", 4)])
    );
    shop.world.settle().await;
    assert_eq!(shop.world.current().await, changed);
    // Others at the period's end are those of the plan that is pending.
    let other = at_the_end(with(json!([of("extra_tokens", 2)])));
    let changed = shop.put(other).await.ok();
    assert_eq!(changed["pendingChange"]["planTier"], "enterprise");
    assert_eq!(
        changed["pendingChange"]["addons"],
        json!([of("extra_tokens", 2)])
    );
    shop.world.settle().await;
    assert_eq!(renewed(&shop, &customer, &clock).await, 49_900 + 2 * 2_000);
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 2)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 11_000_000);
}

#[tokio::test]
async fn seats_and_addons_leave_each_other_alone() {
    let changes = [(PRICE, PRICES), SEATS, BY_THE_SEAT];
    let (shop, customer, clock) = subscribed(&changes, json!([of("extra_tokens", 2)])).await;
    shop.put(json!({"planTier": "standard", "quantity": 4}))
        .await
        .ok();
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 2)]));
    // Fewer seats and fewer add-ons are asked for one after the other, for the next period.
    shop.put(at_the_end(json!({"planTier": "standard", "quantity": 3})))
        .await
        .ok();
    let changed = shop
        .put(at_the_end(with(json!(["extra_tokens"]))))
        .await
        .ok();
    let pending = &changed["pendingChange"];
    assert_eq!(
        (&pending["quantity"], &pending["addons"]),
        (&json!(3), &json!([of("extra_tokens", 1)]))
    );
    shop.world.settle().await;
    assert_eq!(renewed(&shop, &customer, &clock).await, 3 * 9_900 + 2_000);
    let current = shop.world.current().await;
    assert_eq!(
        (&current["quantity"], &current["addons"]),
        (&json!(3), &json!([of("extra_tokens", 1)]))
    );
    assert_eq!(shop.limit_of("user_seats").await, 3);
    assert_eq!(shop.limit_of("llm_tokens").await, 1_500_000);
    // By the year from the next period on: the add-on has its price by the year.
    let yearly = json!({"planTier": "standard", "interval": "year"});
    let shown = shop.previewed(at_the_end(yearly)).await.ok();
    assert_eq!(
        shown["nextInvoiceAmountMinor"],
        3 * 99_000 + 20_000,
        "{shown:#}"
    );
    let changed = shop.world.change_as(&shown).await.ok();
    assert_eq!(
        changed["pendingChange"]["addons"],
        json!([of("extra_tokens", 1)])
    );
    // One more now is one more then, at its price by the year.
    let changed = shop.put(with(json!([of("extra_tokens", 2)]))).await.ok();
    assert_eq!(changed["addons"], json!([of("extra_tokens", 2)]));
    assert_eq!(
        changed["pendingChange"]["addons"],
        json!([of("extra_tokens", 2)]),
        "{changed:#}"
    );
    shop.world.settle().await;
    shop.world
        .stripe
        .advance(&clock, RENEWAL + 32 * 86_400)
        .await;
    shop.world.settle().await;
    assert_eq!(
        shop.invoice(&customer).await["amount_paid"],
        3 * 99_000 + 2 * 20_000
    );
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 2)]));
}

/// What another plan ends is not bought for it, and a free plan has none.
#[tokio::test]
async fn an_addon_that_a_plan_change_drops_does_not_follow_into_it() {
    let (mut shop, _, _) = subscribed(&[], json!([])).await;
    let lifted = "quotas = { api_calls = \"unlimited\" }\n";
    let dropped = format!("{lifted}on_plan_change = \"drop\"\n");
    shop.change(&[(lifted, &dropped)]).await;
    shop.put(at_the_end(json!({"planTier": "enterprise"})))
        .await
        .ok();
    shop.world.settle().await;
    let wish = with(json!([of("extra_tokens", 2), of("endless_calls", 1)]));
    let changed = shop.put(wish).await.ok();
    assert_eq!(
        changed["pendingChange"]["addons"],
        json!([of("extra_tokens", 2)])
    );
    shop.world.settle().await;
    let free = json!({"planTier": "free", "addons": []});
    let shown = shop.previewed(free.clone()).await.ok();
    let mut same = free;
    same["previewToken"] = shown["previewToken"].clone();
    shop.put(same).await.ok();
}
