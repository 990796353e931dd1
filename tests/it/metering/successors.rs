//! A subscription that follows another one in the same month: each has its own
//! usage.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::json;

use super::billed::Billed;
use crate::subscriptions::world::{seconds, text};

#[derive(Clone, Copy, Debug)]
enum How {
    /// Here, with seconds between.
    Here,
    /// Here, in one second.
    AtOnce,
    /// In Stripe, which tells of it late.
    Late,
}

#[tokio::test]
async fn usage_of_an_ended_subscription_is_not_shown_on_the_next_one() {
    for how in [How::Here, How::AtOnce, How::Late] {
        let at = Timestamp::now().as_second() - 5 * 3_600;
        let billed = Billed::without_subscription(Some(at)).await;
        billed.world.create("standard").await.ok();
        billed.world.settle().await;
        billed.record("a", "api_calls", "300000").await;
        billed.record("b", "storage_gb", "150").await;
        if let How::Late = how {
            billed.world.deliver_nothing().await;
        }
        billed.catch_up().await;
        let began = match how {
            How::Here => {
                billed.world.cancel(true).await.ok();
                let began = billed.catch_up().await;
                billed.record("free", "api_calls", "500").await;
                billed.catch_up().await;
                billed.world.create("standard").await.ok();
                began + 1
            }
            How::AtOnce => {
                billed.world.cancel(true).await.ok();
                billed.world.create("standard").await.ok();
                0
            }
            How::Late => {
                let old = billed.subscription().await;
                let path = format!("/v1/subscriptions/{}", text(&old, "id"));
                let fields = [("invoice_now", "true")];
                let stripe = &billed.world.stripe;
                stripe.send(Method::DELETE, &path, &fields).await;
                let began = billed.catch_up().await;
                let mut fields = vec![("customer".to_owned(), billed.customer.clone())];
                let items = old["items"]["data"].as_array().unwrap();
                for (n, item) in items.iter().enumerate() {
                    let price = text(&item["price"], "id");
                    fields.push((format!("items[{n}][price]"), price));
                }
                let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (&**k, &**v)).collect();
                stripe.post("/v1/subscriptions", &fields).await;
                billed.record("unheard", "api_calls", "40").await;
                billed.world.deliver_again().await;
                billed.in_dashboard(&[("metadata[seen]", "1")]).await;
                began
            }
        };
        billed.world.settle().await;
        billed.record("c", "api_calls", "7").await;
        let shown = billed.tenant.usage(billed.service(), "api_calls").await;
        let expected = if let How::Late = how { 47 } else { 7 };
        assert_eq!(
            (&shown["usage"], &shown["overageAmount"]),
            (&json!(expected), &json!(0)),
            "{how:?}: {shown:#}"
        );
        assert!(
            seconds(&shown["periodStart"]) >= began,
            "{how:?}: {shown:#}"
        );
        let level = billed.tenant.usage(billed.service(), "storage_gb").await;
        assert_eq!(
            (&level["usage"], &level["overageAmount"]),
            (&json!(0), &json!(0)),
            "{how:?}: {level:#}"
        );
        billed.report(Timestamp::now()).await;
        let sql = "SELECT string_agg(trim_scale(total)::text, ' ' ORDER BY period_start)
                     FROM usage_totals WHERE metric = 'api_calls' AND total > 0";
        let totals = billed.service().db.value(sql).await;
        let free = if let How::Here = how { " 500" } else { "" };
        assert_eq!(totals, format!("300000{free} {expected}"), "{how:?}");
    }
}
