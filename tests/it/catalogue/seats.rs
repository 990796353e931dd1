//! Seats: what was bought is the limit, whatever is used, changed or told in which order.

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::tenancy::auth::Permission;

use super::shop::Shop;
use crate::metering::tenant::{CHECK, Tenant};
use crate::subscriptions::world::{DAY, START};
use crate::support::events::{event, subscription};
use crate::webhooks::workbench::Workbench;

const QUOTA: &str =
    "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n";
const TRIAL: &str = "trial_days_max = 30\n";

/// The fee is for each seat.
const BY_THE_SEAT: &str =
    "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n";
/// Three come with the fee, and each further one costs 15.00.
const BESIDE: &str = "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nincluded = 3\n\
                      mode = \"licensed\"\nprice = { amount = 1_500 }\n";
/// As used.
const METERED: &str = "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nincluded = 25\n\
                       mode = \"metered\"\nprice = \"5.00\"\n";

async fn selling(seats: &str) -> Shop {
    Shop::open(&[(QUOTA, ""), (TRIAL, seats)]).await
}

fn wish(seats: u32) -> Value {
    json!({"planTier": "standard", "quantity": seats})
}

impl Shop {
    /// The limit of seats, as the API shows it.
    async fn seats(&self) -> Value {
        self.usage("user_seats").await["quota"].clone()
    }

    pub async fn tenant(&self) -> Tenant {
        let organization: Uuid = self.world.organization;
        let key = self
            .world
            .service
            .api_key(organization, &Permission::ALL)
            .await;
        Tenant { organization, key }
    }

    /// Quantities of the licensed items, by what one costs.
    async fn licensed(&self, customer: &str) -> Vec<(i64, i64)> {
        let subscription = self.world.stripe.subscriptions(customer).await.remove(0);
        let items = subscription["items"]["data"].as_array().unwrap();
        let licensed = items
            .iter()
            .filter(|item| item["price"]["recurring"]["usage_type"] == "licensed");
        let mut licensed: Vec<(i64, i64)> = licensed
            .map(|item| {
                let of = |value: &Value| value.as_i64().unwrap();
                (of(&item["price"]["unit_amount"]), of(&item["quantity"]))
            })
            .collect();
        licensed.sort_unstable();
        licensed
    }
}

#[tokio::test]
async fn what_was_bought_is_the_limit_and_other_seats_are_a_change() {
    let mut shop = selling(BY_THE_SEAT).await;
    let (customer, clock) = shop.customer_at(START).await;
    let made = shop.subscribe(wish(5)).await.ok();
    assert_eq!(made["quantity"], 5);
    assert_eq!(shop.invoice(&customer).await["total"], 5 * 9_900);
    assert_eq!(shop.seats().await, 5);
    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    assert_eq!(tenant.consume(service, "user_seats", 5).await.status, 200);
    let sixth = tenant.consume(service, "user_seats", 6).await;
    assert_eq!(sixth.problem(), (402, "QUOTA_EXCEEDED"));

    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    assert_eq!(shop.put(wish(5)).await.problem(), (409, "same_plan"));
    let preview = shop.previewed(wish(8)).await.ok();
    assert_eq!(
        (&preview["quantity"], &preview["newPlan"]),
        (&json!(8), &json!("standard"))
    );
    // Three quarters of the month are left.
    assert_eq!(preview["dueNowAmountMinor"], 3 * 7_425, "{preview:#}");
    assert_eq!(
        preview["changes"],
        json!([{"metric": "user_seats", "currentQuota": 5, "newQuota": 8,
                "currentOverageRate": "0", "newOverageRate": "0"}])
    );
    shop.world.change_as(&preview).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], 3 * 7_425);
    assert_eq!(shop.seats().await, 8);
    shop.world.settle().await;
    assert_eq!(shop.seats().await, 8);
    assert_eq!(
        tenant
            .consume(&shop.world.service, "user_seats", 8)
            .await
            .status,
        200
    );

    // Fewer are charged with the renewal, and never fewer than are used.
    for answer in [shop.previewed(wish(7)).await, shop.put(wish(7)).await] {
        assert_eq!(answer.problem(), (409, "seats_in_use"), "{answer:?}");
        assert_eq!(
            (&answer.body["used"], &answer.body["asked"]),
            (&json!(8), &json!(7))
        );
    }
    tenant
        .consume(&shop.world.service, "user_seats", 2)
        .await
        .ok();
    let preview = shop.previewed(wish(2)).await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 0);
    shop.world.change_as(&preview).await.ok();
    assert_eq!(shop.seats().await, 2);
    assert_eq!(shop.licensed(&customer).await, [(9_900, 2)]);
}

#[tokio::test]
async fn seats_beside_the_fee_have_an_item_of_their_own() {
    let mut shop = selling(BESIDE).await;
    let (customer, clock) = shop.customer_at(START).await;
    let few = shop.previewed(wish(2)).await;
    assert_eq!(few.problem(), (422, "quantity_out_of_range"));
    shop.subscribe(json!({"planTier": "standard"})).await.ok();
    assert_eq!(shop.seats().await, 3);
    assert_eq!(shop.licensed(&customer).await, [(9_900, 1)]);
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    let preview = shop.previewed(wish(7)).await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 4 * 1_125, "{preview:#}");
    shop.world.change_as(&preview).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], 4 * 1_125);
    assert_eq!(shop.licensed(&customer).await, [(1_500, 4), (9_900, 1)]);
    shop.world.settle().await;
    assert_eq!(
        (shop.seats().await, shop.world.plan().await.0),
        (json!(7), "standard".into())
    );
    // The next invoice is what was said.
    shop.world.stripe.advance(&clock, START + 29 * DAY).await;
    shop.world.settle().await;
    assert_eq!(
        shop.invoice(&customer).await["total"],
        preview["nextInvoiceAmountMinor"]
    );
    assert_eq!(preview["nextInvoiceAmountMinor"], 9_900 + 4 * 1_500);
    shop.put(wish(3)).await.ok();
    assert_eq!(shop.licensed(&customer).await, [(9_900, 1)]);
    assert_eq!(shop.seats().await, 3);
    // A plan without seats takes no item of them along.
    shop.put(wish(4)).await.ok();
    shop.put(json!({"planTier": "enterprise"})).await.ok();
    assert_eq!(shop.licensed(&customer).await, [(49_900, 1)]);
    assert_eq!(shop.world.current().await["quantity"], json!(null));
}

#[tokio::test]
async fn a_raised_fee_does_not_reach_the_seats_that_are_added_to_what_was_bought() {
    let mut shop = selling(BY_THE_SEAT).await;
    let customer = shop.customer().await;
    shop.subscribe(wish(2)).await.ok();
    shop.world.settle().await;
    shop.change(&[("amount = 9_900", "amount = 10_900")]).await;
    shop.put(wish(4)).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.licensed(&customer).await, [(9_900, 4)]);
    let version = "SELECT plan_version || ' ' || plan_seats FROM organizations WHERE id = $org";
    assert_eq!(shop.value(version).await, "1 4");
}

#[tokio::test]
async fn a_plan_with_seats_takes_as_many_as_there_are_and_one_without_charges_once() {
    let mut shop = selling(BY_THE_SEAT).await;
    let customer = shop.customer().await;
    shop.subscribe(wish(6)).await.ok();
    shop.world.settle().await;
    let to_many = json!({"planTier": "enterprise", "quantity": 6});
    assert_eq!(
        shop.put(to_many).await.problem(),
        (422, "plan_without_seats")
    );
    shop.put(json!({"planTier": "enterprise"})).await.ok();
    assert_eq!(shop.licensed(&customer).await, [(49_900, 1)]);
    shop.world.settle().await;
    assert_eq!(shop.seats().await, json!(null));
    // The level that was told last counts, unlimited as it was.
    let tenant = shop.tenant().await;
    tenant
        .consume(&shop.world.service, "user_seats", 9)
        .await
        .ok();
    let back = shop.put(json!({"planTier": "standard"})).await;
    assert_eq!(back.problem(), (409, "seats_in_use"), "{back:?}");
    shop.put(wish(9)).await.ok();
    assert_eq!(shop.licensed(&customer).await, [(9_900, 9)]);
}

#[tokio::test]
async fn metered_seats_are_a_level_that_is_charged() {
    let mut shop = selling(METERED).await;
    let customer = shop.subscriber("standard").await;
    let refused = shop
        .put(json!({"planTier": "standard", "quantity": 30}))
        .await;
    assert_eq!(refused.problem(), (422, "plan_without_seats"));
    shop.uses("user_seats", "30").await;
    shop.report().await;
    assert_eq!(shop.overage().await, 2_500);
    assert_eq!(shop.metered_lines(&customer).await, 2_500);
}

#[tokio::test]
async fn seats_that_change_in_stripe_are_the_limit_in_any_order_of_events() {
    let mut shop = selling(BY_THE_SEAT).await;
    let customer = shop.customer().await;
    shop.subscribe(wish(2)).await.ok();
    shop.world.settle().await;
    let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let items = subscription["items"]["data"].as_array().unwrap();
    let fee = items
        .iter()
        .find(|item| item["price"]["recurring"]["usage_type"] == "licensed")
        .unwrap();
    let path = format!("/v1/subscription_items/{}", fee["id"].as_str().unwrap());
    for seats in ["7", "4", "9"] {
        shop.world.stripe.post(&path, &[("quantity", seats)]).await;
    }
    shop.world.settle().await;
    // They are of the second in which Stripe answered: it is asked again.
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.seats().await, 9);
    // A restart finds nothing to correct.
    let updated = "SELECT max(updated_at) FROM usage_quotas WHERE organization_id = $org";
    let before = shop.value(updated).await;
    shop.restart().await;
    assert_eq!(
        (shop.seats().await, shop.value(updated).await),
        (json!(9), before)
    );
}

/// Fewer seats are bought while people join: nobody who was let in is left without one.
#[tokio::test]
async fn fewer_seats_and_their_use_never_cross() {
    for round in 0..6 {
        let mut shop = selling(BY_THE_SEAT).await;
        shop.customer().await;
        shop.subscribe(wish(8)).await.ok();
        shop.world.settle().await;
        let tenant = shop.tenant().await;
        tenant
            .consume(&shop.world.service, "user_seats", 3)
            .await
            .ok();
        let joins = async {
            let mut admitted = 3;
            for seats in 4..=8 {
                let body = json!({"metric": "user_seats", "quantity": seats, "consume": true});
                let answer = tenant.post(&shop.world.service, CHECK, &body).await;
                if answer.status == 200 {
                    admitted = seats;
                }
                tokio::time::sleep(std::time::Duration::from_millis(3 * round)).await;
            }
            admitted
        };
        let (admitted, fewer) = tokio::join!(joins, shop.put(wish(5)));
        shop.world.settle().await;
        let limit = shop.seats().await.as_i64().unwrap();
        match fewer.status {
            200 => assert_eq!(limit, 5),
            409 => {
                assert_eq!(fewer.problem(), (409, "seats_in_use"));
                assert_eq!(limit, 8);
            }
            _ => panic!("{fewer:?}"),
        }
        assert!(
            admitted <= limit,
            "{admitted} are let in, and {limit} were bought"
        );
        let held = "SELECT count(*) FROM usage_quotas WHERE seats_held IS NOT NULL";
        assert_eq!(shop.value(held).await, "0");
    }
}

#[tokio::test]
async fn a_change_that_stripe_refuses_leaves_the_seats_that_were_bought() {
    let mut shop = selling(BY_THE_SEAT).await;
    let customer = shop.customer().await;
    shop.subscribe(wish(4)).await.ok();
    shop.world.settle().await;
    shop.world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let refused = shop.put(wish(9)).await;
    assert_eq!(refused.problem().0, 402, "{refused:?}");
    assert_eq!(shop.seats().await, 4);
    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    assert_eq!(tenant.consume(service, "user_seats", 4).await.status, 200);
    let fifth = tenant.consume(service, "user_seats", 5).await;
    assert_eq!(fifth.problem(), (402, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn other_seats_leave_an_end_that_was_planned() {
    let mut shop = selling(BY_THE_SEAT).await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.subscribe(wish(4)).await.ok();
    shop.world.settle().await;
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.cancel(false).await.ok();
    for (seats, due) in [(6, 2 * 7_425), (3, 0)] {
        let preview = shop.previewed(wish(seats)).await.ok();
        assert_eq!(preview["dueNowAmountMinor"], due, "{preview:#}");
        let changed = shop.world.change_as(&preview).await.ok();
        assert_eq!(changed["cancelAtPeriodEnd"], true);
    }
    assert_eq!(shop.licensed(&customer).await, [(9_900, 3)]);
}

/// However many seats each has, they are assigned together.
#[tokio::test]
async fn organizations_that_bought_alike_are_assigned_at_once() {
    let text = std::fs::read_to_string("config/plans.toml").unwrap();
    let text = text.replacen(QUOTA, "", 1).replacen(TRIAL, BY_THE_SEAT, 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut bench = Workbench::without_customers().await;
    bench.processor.catalogue = Catalogue::load(Some(file.path())).unwrap();
    let mut events = Vec::new();
    for seats in 1..=4 {
        let customer = format!("cus_{seats}");
        bench.db.organization(&customer).await;
        let id = format!("sub_{seats}");
        let mut object = subscription(&id, &customer, "active", "standard");
        object["items"]["data"][0]["quantity"] = json!(seats);
        let id = format!("evt_{seats}");
        events.push(event(&id, "customer.subscription.created", 100, object));
    }
    bench
        .db
        .execute(
            "CREATE SEQUENCE assignments;
             GRANT ALL ON SEQUENCE assignments TO PUBLIC;
             CREATE FUNCTION count_assignment() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
               PERFORM nextval('public.assignments');
               RETURN NULL;
             END $$;
             CREATE TRIGGER count_assignments AFTER UPDATE OF plan_tier ON organizations
               FOR EACH STATEMENT EXECUTE FUNCTION count_assignment()",
        )
        .await;
    bench.process(&events).await;
    bench
        .shows(
            "SELECT string_agg(q.quota::integer::text, ' ' ORDER BY c.stripe_customer_id) AS seats,
                    (SELECT last_value FROM assignments) AS statements
               FROM usage_quotas q JOIN billing_customers c USING (organization_id)
              WHERE q.metric = 'user_seats' AND q.plan_tier = 'standard'",
            json!({"seats": "1 2 3 4", "statements": 1}),
        )
        .await;
}

#[tokio::test]
async fn what_takes_no_seat_away_is_in_nobodys_way() {
    let mut shop = selling(BY_THE_SEAT).await;
    shop.customer().await;
    shop.subscribe(wish(5)).await.ok();
    shop.world.settle().await;
    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    // An operator lets them have more than they bought: that is the limit, and no other.
    tenant.set_quota(service, "user_seats", "10", None).await;
    tenant.consume(service, "user_seats", 8).await.ok();
    shop.put(wish(4)).await.ok();
    tenant.set_quota(service, "user_seats", "plan", None).await;
    // More than were bought are in use: whoever buys more is on the way there.
    shop.previewed(wish(6)).await.ok();
    shop.put(wish(6)).await.ok();
    let fewer = shop.put(wish(5)).await;
    assert_eq!(fewer.problem(), (409, "seats_in_use"), "{fewer:?}");
}

#[tokio::test]
async fn only_a_change_to_fewer_seats_lowers_the_limit_before_stripe_is_asked() {
    for (seats, held) in [(8, ""), (2, "2")] {
        let mut shop = selling(BY_THE_SEAT).await;
        shop.customer().await;
        shop.subscribe(wish(5)).await.ok();
        shop.world.settle().await;
        // It is not known what becomes of the change.
        let fault = [
            ("fault", "drop"),
            ("path", "/v1/subscriptions/*"),
            ("every", "1"),
        ];
        shop.world.stripe.fault(&fault).await;
        let answer = shop.put(wish(seats)).await;
        assert_eq!(answer.problem(), (503, "stripe_unreachable"));
        let limit = "SELECT coalesce(seats_held::text, '') FROM usage_quotas
                      WHERE metric = 'user_seats' AND organization_id = $org";
        assert_eq!(shop.value(limit).await, held, "{seats}");
    }
}
