//! An id that came before: the answer says that nothing was counted.

use futures_util::future::join_all;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::OverLimit;

use super::tenant::{Answer, CHECK, EVENTS, Tenant};
use crate::support::TestService;

const DUPLICATE: &str = "x-quota-duplicate";

fn named(id: &str) -> Value {
    json!({"metric": "api_calls", "quantity": 1, "consume": true, "id": id})
}

#[track_caller]
fn assert_first(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header(DUPLICATE), "");
    assert_eq!(answer.body.get("duplicate"), None);
}

#[track_caller]
fn assert_again(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header(DUPLICATE), "true");
    assert_eq!(answer.body["duplicate"], true);
    assert_eq!(answer.body["allowed"], true);
}

#[tokio::test]
async fn a_check_says_that_its_id_came_before() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Again").await;
    tenant
        .set_quota(&service, "api_calls", "2", Some(OverLimit::Hard))
        .await;
    assert_first(&tenant.post(&service, CHECK, &named("a")).await);
    // While there is room, and once the limit is exhausted.
    assert_again(&tenant.post(&service, CHECK, &named("a")).await);
    assert_first(&tenant.post(&service, CHECK, &named("b")).await);
    for id in ["a", "b", "a"] {
        assert_again(&tenant.post(&service, CHECK, &named(id)).await);
    }
    // What is new is refused, and what is other content is none of it.
    let denied = tenant.post(&service, CHECK, &named("c")).await;
    assert_eq!(denied.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(denied.header(DUPLICATE), "");
    let mut other = named("a");
    other["quantity"] = json!(2);
    let other = tenant.post(&service, CHECK, &other).await;
    assert_eq!(other.problem(), (409, "event_id_reused"));
    // A question counts nothing, whatever its id.
    let mut question = named("a");
    question["consume"] = json!(false);
    question["quantity"] = json!(0);
    assert_first(&tenant.post(&service, CHECK, &question).await);
    assert_eq!(tenant.total(&service, "api_calls").await, "2");
    let series = "quota_decisions_total{outcome=\"duplicate\",metric=\"api_calls\"}";
    assert_eq!(service.metric(series).await, Some(4));
}

#[tokio::test]
async fn a_proxy_is_told_that_an_id_came_before() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Proxied").await;
    let target = "/api/enforce?metric=api_calls&amount=2&id=one";
    assert_first(&tenant.get(&service, target).await);
    assert_again(&tenant.get(&service, target).await);
    assert_again(
        &tenant
            .get(&service, "/api/enforce/x?metric=api_calls&amount=2&id=one")
            .await,
    );
    // An event that was told of is a use that was counted, too.
    let event = json!({"id": "two", "metric": "api_calls", "quantity": 2});
    tenant.post(&service, EVENTS, &event).await.ok();
    assert_again(&tenant.get(&service, &target.replace("one", "two")).await);
    assert_eq!(tenant.total(&service, "api_calls").await, "4");
}

#[tokio::test]
async fn of_many_at_once_one_is_the_first() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Crowded").await;
    tenant.set_quota(&service, "api_calls", "0", None).await;
    let body = named("one");
    let calls = (0..40).map(|_| tenant.post(&service, CHECK, &body));
    let answers = join_all(calls).await;
    let again = answers.iter().filter(|answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-quota-warning"), "true", "{answer:?}");
        answer.body["duplicate"] == true
    });
    assert_eq!(again.count(), 39);
    assert_eq!(tenant.total(&service, "api_calls").await, "1");
}
