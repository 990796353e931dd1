//! Uses that the product holds, and says afterwards what was used.

use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::Method;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::{Catalogue, OverLimit};
use valuecanvas_billing::metering::ledger::{self, LedgerError, NewHold, UsageRejection};

use super::tenant::{Answer, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::product::Product;
use crate::support::service::Options;

const RESERVATIONS: &str = "/api/billing/usage/reservations";

impl Tenant {
    async fn hold(&self, service: &TestService, id: &str, quantity: u32) -> Answer {
        let body = json!({"metric": "api_calls", "quantity": quantity, "id": id});
        self.post(service, RESERVATIONS, &body).await
    }

    async fn confirm(&self, service: &TestService, id: &str, quantity: u32) -> Answer {
        let path = format!("{RESERVATIONS}/{id}/confirm");
        self.post(service, &path, &json!({"quantity": quantity}))
            .await
    }

    async fn release(&self, service: &TestService, id: &str) -> Answer {
        let path = format!("{RESERVATIONS}/{id}");
        self.send(service, Method::DELETE, &path, None).await
    }

    async fn used(&self, service: &TestService) -> Value {
        let path = "/api/billing/usage/check";
        let body = json!({"metric": "api_calls", "quantity": 0, "consume": false});
        self.post(service, path, &body).await.body["usage"].clone()
    }

    async fn limited(service: &TestService, limit: &str) -> Self {
        let tenant = Self::of(service, "Holding").await;
        let hard = Some(OverLimit::Hard);
        tenant.set_quota(service, "api_calls", limit, hard).await;
        tenant
    }
}

#[tokio::test]
async fn a_hold_counts_at_once_and_what_was_used_is_counted_once() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    let held = tenant.hold(&service, "call-1", 8).await;
    assert_eq!(held.status, 201);
    assert_eq!(held.header("x-quota-remaining"), "2");
    assert_eq!(
        [
            &held.body["status"],
            &held.body["usage"],
            &held.body["allowed"]
        ],
        [&json!("held"), &json!(8), &json!(true)]
    );
    let again = tenant.hold(&service, "call-1", 8).await;
    assert_eq!((again.status, &again.body), (201, &held.body));
    assert_eq!(
        tenant.hold(&service, "call-2", 3).await.problem(),
        (402, "QUOTA_EXCEEDED")
    );
    let other = tenant.hold(&service, "call-1", 7).await;
    assert_eq!(other.problem(), (409, "reservation_id_reused"));
    let longer = json!({"metric": "api_calls", "quantity": 8, "id": "call-1", "ttlSeconds": 3600});
    let longer = tenant.post(&service, RESERVATIONS, &longer).await;
    assert_eq!(longer.problem(), (409, "reservation_id_reused"));

    let confirmed = tenant.confirm(&service, "call-1", 5).await;
    assert_eq!(confirmed.header("x-quota-remaining"), "5");
    assert_eq!(
        confirmed.ok(),
        json!({"id": "call-1", "status": "confirmed", "metric": "api_calls", "held": 8,
               "quantity": 5, "counted": 5})
    );
    let again = tenant.confirm(&service, "call-1", 5).await;
    assert_eq!(again.ok()["counted"], 5);
    let other = tenant.confirm(&service, "call-1", 6).await;
    assert_eq!(other.problem(), (409, "reservation_confirmed"));
    assert_eq!(tenant.release(&service, "call-1").await.status, 409);
    let reused = tenant.hold(&service, "call-1", 8).await;
    assert_eq!(reused.problem(), (409, "reservation_id_reused"));
    assert_eq!(tenant.used(&service).await, 5);
    // The use has the reservation's id.
    let event = json!({"id": "call-1", "metric": "api_calls", "quantity": 5});
    let duplicate = tenant.post(&service, EVENTS, &event).await.ok();
    assert_eq!(duplicate["status"], "duplicate");
}

#[tokio::test]
async fn of_more_than_was_held_the_quota_decides() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    for (id, held, used, status, counted) in [("fits", 2, 4, 200, 4), ("over", 3, 9, 402, 3)] {
        tenant.hold(&service, id, held).await;
        let first = tenant.confirm(&service, id, used).await;
        assert_eq!(
            (first.status, &first.body["counted"]),
            (status, &json!(counted))
        );
        let again = tenant.confirm(&service, id, used).await;
        for member in ["counted", "refused", "quantity", "held", "code", "detail"] {
            assert_eq!(again.body[member], first.body[member], "{member}");
        }
        assert_eq!(again.status, status);
    }
    let path = format!("{RESERVATIONS}/over/confirm");
    let refused = tenant.post(&service, &path, &json!({"quantity": 9})).await;
    assert_eq!(refused.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(refused.body["refused"], 6);
    assert_eq!(tenant.used(&service).await, 7);
}

#[tokio::test]
async fn what_is_released_or_expires_is_given_back_and_counts_nothing() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    tenant.hold(&service, "let-go", 10).await;
    assert_eq!(tenant.release(&service, "let-go").await.status, 204);
    assert_eq!(tenant.release(&service, "let-go").await.status, 204);
    let late = tenant.confirm(&service, "let-go", 1).await;
    assert_eq!(late.problem(), (409, "reservation_released"));
    assert_eq!(tenant.used(&service).await, 0);

    for id in ["late", "forgotten"] {
        let body = json!({"metric": "api_calls", "quantity": 5, "id": id, "ttlSeconds": 1});
        assert_eq!(tenant.post(&service, RESERVATIONS, &body).await.status, 201);
    }
    let due =
        "usage_reservations WHERE expires_at > now() AND name IS NOT NULL AND settled_at IS NULL";
    while service.db.count(due).await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Its time is over, whether or not a sweeper has seen it.
    let late = tenant.confirm(&service, "late", 5).await;
    assert_eq!(late.problem(), (410, "reservation_expired"));
    let expired = "usage_reservations WHERE outcome = 'expired' AND quantity = 0";
    while service.db.count(expired).await < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(tenant.used(&service).await, 0);
    let late = tenant.confirm(&service, "forgotten", 5).await;
    assert_eq!(late.problem(), (410, "reservation_expired"));
    assert_eq!(tenant.release(&service, "forgotten").await.status, 204);
    assert_eq!(service.db.count("usage_events").await, 0);
    let reserved = "SELECT trim_scale(sum(reserved)) FROM usage_totals";
    assert_eq!(service.db.value(reserved).await, "0");
}

#[tokio::test]
async fn bad_reservations_are_refused_by_name() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    for (change, code, status) in [
        (json!({"quantity": 0}), "invalid_quantity", 400),
        (json!({"quantity": -1}), "invalid_quantity", 400),
        (
            json!({"quantity": "123456789012345678901"}),
            "invalid_quantity",
            400,
        ),
        (json!({"ttlSeconds": 0}), "invalid_ttl", 400),
        (json!({"ttlSeconds": 3601}), "invalid_ttl", 400),
        (json!({"metric": "nonsense"}), "unknown_metric", 400),
        (json!({"metric": "user_seats"}), "metric_not_summed", 422),
        (json!({"id": ""}), "invalid_id", 400),
        (json!({"until": "tomorrow"}), "unknown_field", 400),
    ] {
        let mut body = json!({"metric": "api_calls", "quantity": 1, "id": "bad"});
        let change = change.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(change.clone());
        let answer = tenant.post(&service, RESERVATIONS, &body).await;
        assert_eq!(answer.problem(), (status, code), "{change:?}");
    }
    tenant.hold(&service, "mine", 1).await;
    let stranger = Tenant::of(&service, "Stranger").await;
    for answer in [
        stranger.confirm(&service, "mine", 1).await,
        stranger.release(&service, "mine").await,
        tenant.confirm(&service, "nobody's", 1).await,
    ] {
        assert_eq!(answer.problem(), (404, "reservation_not_found"));
    }
    // A use that came by itself has the id already.
    tenant.hold(&service, "taken", 1).await;
    let event = json!({"id": "taken", "metric": "api_calls", "quantity": 1});
    tenant.post(&service, EVENTS, &event).await.ok();
    let answer = tenant.confirm(&service, "taken", 2).await;
    assert_eq!(answer.problem(), (409, "event_id_reused"));
}

#[tokio::test]
async fn a_service_key_holds_for_the_organization_that_it_names() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    product.make(&service, "acme").await;
    product.make(&service, "other").await;
    let send = async |name: &str, path: &str, body: Value| {
        let request = product.request(&service, Method::POST, path);
        let request = request.header("x-organization", name).json(&body);
        product.send(request).await
    };
    let body = json!({"metric": "api_calls", "quantity": 3, "id": "1"});
    assert_eq!(send("acme", RESERVATIONS, body).await.status, 201);
    let path = format!("{RESERVATIONS}/1/confirm");
    let wrong = send("other", &path, json!({"quantity": 2})).await;
    assert_eq!(wrong.problem(), (404, "reservation_not_found"));
    assert_eq!(
        send("acme", &path, json!({"quantity": 2})).await.ok()["counted"],
        2
    );
}

#[tokio::test]
async fn holds_on_two_replicas_never_exceed_a_hard_limit() {
    let first = TestService::start().await;
    let second = TestService::beside(&first).await;
    let (one, two) = (&first, &second);
    let tenant = Tenant::limited(&first, "100").await;
    // Each is held on one replica and settled on both, more than was held.
    let uses = (0..120).map(|n| {
        let tenant = &tenant;
        async move {
            let id = format!("use-{n}");
            let held = tenant.hold([one, two][n % 2], &id, 2).await;
            if held.status != 201 {
                assert_eq!(held.problem(), (402, "QUOTA_EXCEEDED"));
                return 0;
            }
            if n % 5 == 0 {
                let (a, b) = tokio::join!(tenant.release(one, &id), tenant.release(two, &id));
                assert_eq!((a.status, b.status), (204, 204));
                return 0;
            }
            let used = 1 + u32::try_from(n % 3).unwrap();
            let (a, b) = tokio::join!(
                tenant.confirm(one, &id, used),
                tenant.confirm(two, &id, used)
            );
            assert_eq!(a.status, b.status);
            assert_eq!(a.body["counted"], b.body["counted"]);
            a.body["counted"].as_i64().unwrap()
        }
    });
    let counted: i64 = join_all(uses).await.into_iter().sum();
    assert!((50..=100).contains(&counted), "{counted}");
    assert_eq!(tenant.total(&first, "api_calls").await, counted.to_string());
    let events = "SELECT trim_scale(sum(quantity)) FROM usage_events";
    assert_eq!(first.db.value(events).await, counted.to_string());
    let reserved = "SELECT trim_scale(sum(reserved)) FROM usage_totals";
    assert_eq!(first.db.value(reserved).await, "0");
    assert_eq!(
        first
            .db
            .count("usage_reservations WHERE settled_at IS NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn a_hold_survives_its_replica_and_ends_by_itself() {
    let mut first = TestService::start().await;
    let tenant = Tenant::limited(&first, "10").await;
    tenant.hold(&first, "kept", 10).await;
    first.stop().await;
    let second = TestService::beside_with(&first, Options::default()).await;
    let denied = tenant.hold(&second, "more", 1).await;
    assert_eq!(denied.problem(), (402, "QUOTA_EXCEEDED"));
    second
        .db
        .execute("UPDATE usage_reservations SET expires_at = now()")
        .await;
    while second
        .db
        .count("usage_reservations WHERE outcome = 'expired'")
        .await
        == 0
    {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(tenant.hold(&second, "more", 10).await.status, 201);
}

/// What nobody was there to let go in time.
#[tokio::test]
async fn holds_of_a_period_that_is_over_for_long_end_and_keep_no_others() {
    let mut first = TestService::start().await;
    let tenant = Tenant::limited(&first, "10").await;
    tenant.hold(&first, "old", 4).await;
    first.stop().await;
    first
        .db
        .execute(
            "UPDATE usage_totals SET period_start = '2020-01-01', period_end = '2020-02-01';
             UPDATE usage_reservations
                SET period_start = '2020-01-01', expires_at = '2020-01-31';",
        )
        .await;
    let second = TestService::beside_with(&first, Options::default()).await;
    let body = json!({"metric": "api_calls", "quantity": 10, "id": "new", "ttlSeconds": 1});
    assert_eq!(tenant.post(&second, RESERVATIONS, &body).await.status, 201);
    let expired = "usage_reservations WHERE outcome = 'expired' AND settled_at IS NOT NULL";
    while second.db.count(expired).await < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(tenant.hold(&second, "next", 10).await.status, 201);
}

/// What is held may never be used: only what is counted begins a grace period.
#[tokio::test]
async fn a_hold_over_the_quota_uses_up_no_grace() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Careful").await;
    let grace = Some(OverLimit::Grace);
    tenant.set_quota(&service, "api_calls", "10", grace).await;
    tenant.consume(&service, "api_calls", 9).await.ok();
    for id in ["released", "small"] {
        assert_eq!(tenant.hold(&service, id, 5).await.status, 201);
    }
    assert_eq!(tenant.release(&service, "released").await.status, 204);
    tenant.confirm(&service, "small", 1).await.ok();
    assert_eq!(service.db.count("grace_periods").await, 0);
    tenant.hold(&service, "large", 5).await;
    tenant.confirm(&service, "large", 2).await.ok();
    let begun = "grace_periods WHERE ended_at IS NULL";
    assert_eq!(service.db.count(begun).await, 1);
    assert_eq!(tenant.total(&service, "api_calls").await, "12");
}

#[tokio::test]
async fn what_is_confirmed_after_its_period_was_invoiced_counts_in_the_next() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    tenant.hold(&service, "late", 4).await;
    service
        .db
        .execute(
            "UPDATE usage_totals
                SET period_start = period_start - interval '1 month', period_end = period_start,
                    closed_at = now();
             UPDATE usage_reservations SET period_start = period_start - interval '1 month';
             UPDATE usage_totals SET period_end = now() - interval '1 hour';",
        )
        .await;
    assert_eq!(tenant.confirm(&service, "late", 3).await.ok()["counted"], 3);
    let open = "usage_totals WHERE closed_at IS NULL AND total = 3 AND reserved = 0";
    assert_eq!(service.db.count(open).await, 1);
    let closed = "usage_totals WHERE closed_at IS NOT NULL AND total = 0 AND reserved = 0";
    assert_eq!(service.db.count(closed).await, 1);
}

/// Each is a row, whatever the quota: an organization that settles none would fill the disk.
#[tokio::test]
async fn an_organization_holds_so_many_at_once_and_no_more() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "unlimited").await;
    let other = Tenant::limited(&service, "unlimited").await;
    for id in ["first", "second"] {
        assert_eq!(tenant.hold(&service, id, 1).await.status, 201);
    }
    service
        .db
        .execute(
            "INSERT INTO usage_reservations (organization_id, id, name, metric, period_start,
                                             quantity, held, reserved_at, expires_at)
             SELECT organization_id, gen_random_uuid(), 'n' || n, metric, period_start, 1, 1,
                    now(), now() + interval '1 hour'
               FROM usage_reservations, generate_series(1, 9998) n WHERE name = 'second'",
        )
        .await;
    let beyond = tenant.hold(&service, "beyond", 1).await;
    assert_eq!(beyond.problem(), (429, "too_many_reservations"));
    assert_eq!(beyond.header("retry-after"), "2");
    // One that there is is answered all the same, and what is settled makes room.
    assert_eq!(tenant.hold(&service, "first", 1).await.status, 201);
    assert_eq!(tenant.release(&service, "second").await.status, 204);
    let racing = (0..8).map(|n| {
        let (tenant, service) = (&tenant, &service);
        async move { tenant.hold(service, &format!("one-of-{n}"), 1).await.status }
    });
    let statuses = join_all(racing).await;
    let held = statuses.iter().filter(|status| **status == 201).count();
    assert_eq!(held, 1, "{statuses:?}");
    let open = format!(
        "usage_reservations WHERE settled_at IS NULL AND organization_id = '{}'",
        tenant.organization
    );
    assert_eq!(service.db.count(&open).await, 10_000);
    // Neither another metric nor another organization.
    let tokens = json!({"metric": "llm_tokens", "quantity": 1, "id": "tokens"});
    let tokens = tenant.post(&service, RESERVATIONS, &tokens).await;
    assert_eq!(tokens.status, 201);
    assert_eq!(other.hold(&service, "other", 1).await.status, 201);
}

/// Somebody removed it after it was read, and before its account was locked.
#[tokio::test]
async fn a_hold_whose_row_is_gone_is_not_found() {
    let service = TestService::start().await;
    let tenant = Tenant::limited(&service, "10").await;
    let rules = ledger::Rules {
        catalogue: Arc::new(Catalogue::load(None).unwrap()),
        grace_hours: 24,
    };
    let options = service.db.options("billing_service");
    let (ledger, writers, answers) = ledger::new(options, rules, 1);
    std::thread::spawn(move || {
        let mut building = tokio::runtime::Builder::new_current_thread();
        let runtime = building.enable_all().build().unwrap();
        runtime.block_on(writers.run());
    });
    tokio::spawn(answers);
    let organization = tenant.organization;
    let new = NewHold {
        name: "gone".to_owned(),
        metric: "api_calls".to_owned(),
        quantity: Decimal::ONE,
        ttl_secs: 60,
    };
    let (_, hold) = ledger.hold(organization, new).await.unwrap();
    let hold = hold.unwrap();
    service.db.execute("DELETE FROM usage_reservations").await;
    let gone = LedgerError::Rejected(UsageRejection::HoldGone);
    let confirmed = ledger.confirm_hold(organization, hold.clone(), Decimal::ONE);
    assert_eq!(confirmed.await.unwrap_err(), gone);
    assert_eq!(
        ledger.release_hold(organization, hold).await.unwrap_err(),
        gone
    );
    let confirmed = tenant.confirm(&service, "gone", 1).await;
    assert_eq!(confirmed.problem(), (404, "reservation_not_found"));
}
