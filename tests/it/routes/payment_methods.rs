//! `/api/billing/payment-methods`

use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::events::event;

async fn change(service: &TestService, customer: &str, n: i64, change: &str) {
    let id = format!("pm_{customer}_{n}");
    let attached = change == "attached";
    let method = json!({
        "id": id,
        "object": "payment_method",
        "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034,
                 "funding": "credit", "country": "US"},
        "created": 1_760_000_000 + n,
        "customer": attached.then_some(customer),
        "livemode": false,
        "metadata": {},
        "type": "card",
    });
    let name = format!("evt_{id}_{change}");
    let at = 1_760_000_000 + n + if attached { 0 } else { 100 };
    let mut event = event(&name, &format!("payment_method.{change}"), at, method);
    event["data"]["previous_attributes"] = json!({"customer": customer});
    service.deliver(&event).await;
}

async fn get(service: &TestService, token: &str, query: &str) -> Value {
    let path = format!("/api/billing/payment-methods{query}");
    let response = service.get(&path).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

#[tokio::test]
async fn the_attached_ones_are_listed_newest_first_and_of_one_organization() {
    let service = TestService::start().await;
    let mine = service.db.organization("cus_1").await;
    service.db.organization("cus_2").await;
    for n in 0..4 {
        change(&service, "cus_1", n, "attached").await;
    }
    change(&service, "cus_1", 1, "detached").await;
    change(&service, "cus_2", 9, "attached").await;
    service.settle().await;

    let token = service.token(mine, Role::Member).await;
    let first = get(&service, &token, "?limit=2").await;
    let ids = |page: &Value| -> Vec<Value> {
        let data = page["data"].as_array().unwrap();
        data.iter().map(|method| method["id"].clone()).collect()
    };
    assert_eq!(ids(&first), ["pm_cus_1_3", "pm_cus_1_2"]);
    let next = first["nextCursor"].as_str().unwrap();
    let second = get(&service, &token, &format!("?limit=2&cursor={next}")).await;
    assert_eq!(
        second,
        json!({"nextCursor": null, "data": [{
            "id": "pm_cus_1_0", "type": "card", "isDefault": false, "brand": "visa", "last4": "4242",
            "expiryMonth": 12, "expiryYear": 2034, "funding": "credit", "country": "US",
            "createdAt": "2025-10-09T08:53:20Z",
        }]})
    );
}
