//! No endpoint takes the calls of another, and none hears of what was before it.

use super::receiver::{Receiver, Reply, change, endpoint, events, service, until_count};
use crate::metering::tenant::Tenant;
use crate::support::program::{program_on, run_beside};

#[tokio::test]
async fn endpoints_that_hang_delay_no_other() {
    let service = service().await;
    let hangs = Receiver::start(Reply::Hang).await;
    // As many as would take every call there is, if each had four.
    for _ in 0..17 {
        endpoint(&service.db, &hangs, &[]).await;
    }
    let answers = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &answers, &[]).await;
    let mut organizations = Vec::new();
    for name in ["One", "Two", "Three", "Four"] {
        organizations.push(service.organization(name).await);
    }
    hangs.count(17).await;
    for organization in organizations {
        change(&service, organization, 3).await;
    }
    answers
        .until("the change of each organization", |_| {
            let told = answers.all();
            let changed = |taken: &&super::receiver::Taken| {
                taken.event()["data"]["features"]["projects"] == 3
            };
            told.iter().filter(changed).count() >= 4
        })
        .await;
}

#[tokio::test]
async fn an_endpoint_that_stumbles_over_some_organizations_keeps_its_calls() {
    let service = service().await;
    let stumbles = Receiver::start(Reply::Hang).await;
    endpoint(&service.db, &stumbles, &[]).await;
    stumbles.then(&[Reply::Status(500)]);
    service.organization("Refused").await;
    let failing = "outbound_endpoints WHERE failing_since IS NOT NULL";
    until_count(&service, failing, 1).await;
    for name in ["One", "Two", "Three"] {
        service.organization(name).await;
    }
    // At the same time: each of their calls hangs.
    let under_way = "(SELECT FROM outbound_lanes WHERE lease_id IS NOT NULL
                      HAVING count(*) >= 3) three";
    until_count(&service, under_way, 1).await;
}

#[tokio::test]
async fn an_endpoint_hears_nothing_of_what_was_before_it() {
    let service = service().await;
    let tenant = Tenant::of(&service, "Early").await;
    tenant.consume(&service, "api_calls", 800).await;
    until_count(&service, "usage_alerts", 1).await;
    let long_ago = "UPDATE usage_alerts SET raised_at = now() - interval '1 hour'";
    service.db.execute(long_ago).await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    let given_up = "usage_alerts WHERE failed_at IS NOT NULL AND attempts = 0
                       AND error_message IS NOT NULL";
    until_count(&service, given_up, 1).await;
    tenant.consume(&service, "api_calls", 200).await;
    receiver.of_type("quota.exceeded").await;
    let early = "outbound_events WHERE event_type = 'quota.threshold_reached'";
    assert_eq!(service.db.count(early).await, 0);
    // An operator may send it all the same.
    let resend = ["usage", "alerts", "--resend"];
    let ran = run_beside(program_on(&service.db, &resend)).await;
    assert_eq!(ran.stdout.trim(), "`serve` will send 1 alert again");
    receiver.of_type("quota.threshold_reached").await;
}

/// It would be looked at for ever.
#[tokio::test]
async fn an_alert_that_no_endpoint_wants_is_given_up() {
    let service = service().await;
    let tenant = Tenant::of(&service, "Unheard").await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &["--type", "invoice.paid"]).await;
    tenant.consume(&service, "api_calls", 800).await;
    until_count(&service, "usage_alerts WHERE failed_at IS NOT NULL", 1).await;
}

#[tokio::test]
async fn what_is_recovered_and_removed_goes_in_batches() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let (id, _) = endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    receiver.count(1).await;
    let disabled = events(&service.db, &["endpoints", "disable", &id]).await;
    assert_eq!(disabled.status, 0, "{}", disabled.stderr);
    // Three batches of events in one and the same moment, of which it has none.
    service
        .db
        .execute(
            "INSERT INTO outbound_events (organization_id, sequence, id, event_type, body)
             SELECT organization_id, 100 + n, gen_random_uuid(), 'plan.changed', '{}'
               FROM outbound_streams, generate_series(1, 2500) n",
        )
        .await;
    let all = [
        "deliveries",
        "recover",
        "--endpoint",
        &id,
        "--since",
        "2020-01-01T00:00:00Z",
        "--json",
    ];
    let recovered = events(&service.db, &all).await;
    assert_eq!(
        recovered.json()["deliveries"],
        2_500,
        "{}",
        recovered.stderr
    );
    // Safe to repeat.
    let again = events(&service.db, &all).await;
    assert_eq!(again.json()["deliveries"], 0, "{}", again.stderr);
    let pending = "outbound_deliveries WHERE status = 'pending'";
    assert_eq!(service.db.count(pending).await, 2_500);
    let removed = events(&service.db, &["endpoints", "remove", &id]).await;
    assert_eq!(removed.status, 0, "{}", removed.stderr);
    assert_eq!(service.db.count("outbound_deliveries").await, 0);
    assert_eq!(service.db.count("outbound_lanes").await, 0);
}

#[tokio::test]
async fn what_a_crash_left_of_a_removed_endpoint_is_cleared() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    receiver.count(1).await;
    service.db.execute("DELETE FROM outbound_endpoints").await;
    until_count(&service, "outbound_lanes", 0).await;
    assert_eq!(service.db.count("outbound_deliveries").await, 0);
}
