//! Quota alerts that were given up are sent again, whatever became of their endpoints.

use super::receiver::{Receiver, Reply, change, endpoint, events, service, until_count};
use crate::metering::tenant::Tenant;
use crate::support::program::{program_on, run_beside};

#[tokio::test]
async fn an_alert_whose_endpoint_was_removed_is_sent_to_another() {
    let service = service().await;
    let (deaf, hears) = (
        Receiver::start(Reply::Status(500)).await,
        Receiver::start(Reply::Status(200)).await,
    );
    let tenant = Tenant::of(&service, "Acme").await;
    let (id, _) = endpoint(&service.db, &deaf, &["--type", "quota.threshold_reached"]).await;
    // The next attempt is the last.
    service
        .db
        .execute("ALTER TABLE outbound_deliveries ALTER attempts SET DEFAULT 7")
        .await;
    tenant.consume(&service, "api_calls", 800).await;
    until_count(&service, "usage_alerts WHERE failed_at IS NOT NULL", 1).await;
    let removed = events(&service.db, &["endpoints", "remove", &id]).await;
    assert_eq!(removed.status, 0, "{}", removed.stderr);
    assert_eq!(service.db.count("outbound_deliveries").await, 0);

    let resend = ["usage", "alerts", "--resend"];
    let none = run_beside(program_on(&service.db, &resend)).await;
    assert_eq!(none.status, 0, "{}", none.stderr);
    assert_eq!(
        service
            .db
            .count("usage_alerts WHERE failed_at IS NOT NULL")
            .await,
        1,
        "it has nowhere to go, and says so"
    );
    endpoint(&service.db, &hears, &[]).await;
    let ran = run_beside(program_on(&service.db, &resend)).await;
    assert_eq!(ran.stdout.trim(), "`serve` will send 1 alert again");
    hears.of_type("quota.threshold_reached").await;
    until_count(&service, "usage_alerts WHERE delivered_at IS NOT NULL", 1).await;
    let told = "outbound_events WHERE event_type = 'quota.threshold_reached'";
    assert_eq!(service.db.count(told).await, 1);
    change(&service, tenant.organization, 9).await;
    hears
        .until("what happens next", |taken| {
            taken.event()["data"]["features"]["projects"] == 9
        })
        .await;
}

/// Errors of one organization are its own.
#[tokio::test]
async fn an_organization_that_cannot_be_told_of_holds_up_no_other() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    let (one, two, three) = (
        service.organization("One").await,
        service.organization("Two").await,
        service.organization("Three").await,
    );
    until_count(
        &service,
        "(SELECT DISTINCT organization_id FROM outbound_events) told",
        3,
    )
    .await;
    let middle = [one, two, three].into_iter().max().unwrap();
    let middle = [one, two, three]
        .into_iter()
        .filter(|id| *id != middle)
        .max()
        .unwrap();
    service
        .db
        .execute(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
               AS $$BEGIN RAISE unique_violation; END$$;
             CREATE TRIGGER refuse BEFORE INSERT ON outbound_events FOR EACH ROW
               WHEN (NEW.organization_id = '{middle}') EXECUTE FUNCTION refuse()"
        ))
        .await;
    for organization in [one, two, three] {
        change(&service, organization, 9).await;
    }
    for organization in [one, two, three] {
        if organization != middle {
            receiver
                .until("the change of another", |taken| {
                    let data = &taken.event()["data"];
                    data["organization"]["id"] == organization.to_string().as_str()
                        && data["features"]["projects"] == 9
                })
                .await;
        }
    }
    let left = format!("outbound_changes WHERE organization_id = '{middle}'");
    assert!(service.db.count(&left).await > 0);
    let failures = service.metric("outbound_publishing_failures_total").await;
    assert!(failures >= Some(1));
    service
        .db
        .execute("DROP TRIGGER refuse ON outbound_events")
        .await;
    until_count(&service, &left, 0).await;
}
