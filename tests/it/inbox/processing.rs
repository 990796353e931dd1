//! What each event does.

use crate::support::TestService;
use crate::support::events::{event, invoice, subscription};

#[tokio::test]
async fn a_subscription_sets_plan_and_quotas() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let created = event(
        "evt_1",
        "customer.subscription.created",
        100,
        subscription("sub_1", "cus_1", "active", "standard"),
    );
    let answer = service.deliver(&created).await;
    assert_eq!(
        answer,
        serde_json::json!({"received": true, "eventId": "evt_1", "duplicate": false})
    );
    service.settle().await;

    assert_eq!(
        service
            .db
            .value("SELECT plan_tier FROM organizations")
            .await,
        "standard"
    );
    assert_eq!(
        service
            .db
            .value("SELECT quota FROM usage_quotas WHERE metric = 'llm_tokens'")
            .await,
        "1000000.0000"
    );
    assert_eq!(service.deliver(&created).await["duplicate"], true);
    let _ = invoice("in_1", "cus_1", "sub_1", "paid");
}
