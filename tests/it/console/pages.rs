//! What pages show, how they are found, and what the audit log has of the looks.

use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Access;

use super::{Browser, Desk, OPERATOR, is_ok};

#[tokio::test]
async fn every_page_is_there_with_its_headers_and_every_link_leads_somewhere() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    desk.deliver("cus_2", &["evt_2"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let mut links = std::collections::BTreeSet::new();
    for path in desk.pages() {
        let page = browser.get(&path).await;
        is_ok(&page);
        assert!(
            page.policy.starts_with("default-src 'none'"),
            "{}",
            page.policy
        );
        assert!(
            page.policy.contains("frame-ancestors 'none'"),
            "{}",
            page.policy
        );
        assert!(!page.policy.contains("unsafe"), "{}", page.policy);
        assert_eq!(page.framing, "DENY");
        // The page of an organization has a part that changes, where Stripe can be asked.
        assert!(!page.text.contains("<script"), "{path}");
        assert_eq!(page.text.matches("<h1>").count(), 1, "{path}");
        let found = page.text.split("href=\"").skip(1);
        let found = found.filter_map(|rest| rest.split('"').next());
        links.extend(
            found
                .filter(|link| link.starts_with('/'))
                .map(str::to_owned),
        );
    }
    assert!(links.len() > 12, "{links:?}");
    for link in links {
        let page = browser
            .get(&link.replace("&#38;", "&").replace("&amp;", "&"))
            .await;
        assert_eq!(page.status, 200, "{link}: {}", page.text);
    }
}

#[tokio::test]
async fn each_look_is_entered_with_who_and_from_where() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let organization = desk.organization;
    for (path, action) in [
        ("/console/webhooks".to_owned(), "webhook_events_listed"),
        ("/console/webhooks/evt_1".to_owned(), "webhook_event_shown"),
        ("/console/dead-letters".to_owned(), "dead_letters_listed"),
        ("/console/organizations".to_owned(), "organizations_listed"),
        (
            format!("/console/organizations/{organization}"),
            "organization_shown",
        ),
        ("/console/explain?event=evt_1".to_owned(), "explained"),
        ("/console/events-out".to_owned(), "event_endpoints_listed"),
        (
            "/console/events-out/deliveries".to_owned(),
            "event_deliveries_listed",
        ),
        ("/console/plans".to_owned(), "plans_shown"),
        ("/console/figures".to_owned(), "figures_shown"),
        ("/console/figures/months.csv".to_owned(), "figures_shown"),
        (
            "/console/figures/movements".to_owned(),
            "revenue_movements_listed",
        ),
        (
            "/console/figures/movements.csv".to_owned(),
            "revenue_movements_listed",
        ),
        (
            "/console/figures/customers".to_owned(),
            "figures_customers_listed",
        ),
        (
            "/console/figures/customers.csv?standing=free".to_owned(),
            "figures_customers_listed",
        ),
        ("/console/audit-log".to_owned(), "audit_log_listed"),
    ] {
        let before = desk.entries(action, OPERATOR).await;
        is_ok(&browser.get(&path).await);
        let after = desk.entries(action, OPERATOR).await;
        assert!(after > before, "{path}");
    }
}

#[tokio::test]
async fn an_organization_is_found_by_whatever_is_known_of_it() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    desk.service
        .db
        .execute(&format!(
            "UPDATE organizations SET name = 'Acme Tools', external_id = 'acme-1',
                    email = 'billing@acme.example' WHERE id = '{}'",
            desk.organization
        ))
        .await;
    desk.service.organization("Somebody else").await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let id = desk.organization.to_string();
    for query in [
        "acme",
        "acme-1",
        "billing%40acme",
        "cus_1",
        "sub_evt_1",
        &id,
    ] {
        let page = browser
            .get(&format!("/console/organizations?query={query}"))
            .await;
        assert!(page.text.contains("Acme Tools"), "{query}: {}", page.text);
        assert!(!page.text.contains("Somebody else"), "{query}");
    }
    let page = browser.get("/console/organizations?query=nobody").await;
    assert!(
        page.text.contains("No organization matches"),
        "{}",
        page.text
    );
    let page = browser.get(&format!("/console/organizations/{id}")).await;
    for shown in [
        "Acme Tools",
        "standard",
        "sub_evt_1",
        "api_calls",
        "100,000",
    ] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
}

#[tokio::test]
async fn lists_go_on_where_the_page_before_ended_and_filters_stay() {
    let desk = Desk::open().await;
    let ids: Vec<String> = (0..30).map(|n| format!("evt_{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    desk.deliver("cus_1", &ids).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let filter = "type=customer.subscription.created";
    let page = browser.get(&format!("/console/webhooks?{filter}")).await;
    let next = page
        .text
        .split("href=\"")
        .find(|rest| rest.contains("cursor="));
    let next = next.expect("a next page").split('"').next().unwrap();
    let next = next.replace("&#38;", "&").replace("&amp;", "&");
    assert!(next.contains(filter), "{next}");
    let second = browser.get(&next).await;
    let seen = |page: &str| {
        ids.iter()
            .filter(|id| page.contains(&format!(">{id}<")))
            .count()
    };
    assert_eq!((seen(&page.text), seen(&second.text)), (25, 5));
    let page = browser.get("/console/webhooks?type=invoice.paid").await;
    assert!(page.text.contains("No event matches"), "{}", page.text);
    let page = browser.get("/console/webhooks?evt=evt_7").await;
    assert_eq!(
        (page.status, &*page.location),
        (303, "/console/webhooks/evt_7")
    );
}

#[tokio::test]
async fn what_is_not_there_is_a_page_that_says_so() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    for (path, status) in [
        ("/console/nothing/here", 404),
        ("/console/webhooks/evt_0", 404),
        ("/console/organizations/none", 404),
        (
            "/console/organizations/00000000-0000-7000-8000-000000000001",
            404,
        ),
        ("/console/explain?event=evt_0", 404),
        ("/console/webhooks?org=nobody", 404),
        ("/console/webhooks?cursor=made-up", 400),
        ("/console/webhooks?made=up", 400),
        ("/console/explain?event=evt_0&metric=a", 422),
        ("/console/audit-log?since=yesterday", 400),
        (
            "/console/events-out/00000000-0000-7000-8000-000000000001",
            404,
        ),
        (
            "/console/events-out/deliveries/00000000-0000-7000-8000-000000000001",
            404,
        ),
        ("/console/events-out/deliveries?status=lost", 400),
        ("/console/plans?plan=none&price=1", 400),
        ("/console/plans?plan=standard&price=1.005", 400),
        ("/console/plans?plan=standard", 400),
        ("/console/figures/movements?month=2026-13", 400),
        ("/console/figures/movements?kind=growth", 400),
        ("/console/figures/customers?standing=rich", 400),
    ] {
        let page = browser.get(path).await;
        assert_eq!(page.status, status, "{path}: {}", page.text);
        assert!(
            page.text.starts_with("<!doctype html>"),
            "{path}: {}",
            page.text
        );
        assert!(page.policy.starts_with("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn a_chain_that_was_tampered_with_is_shown_as_broken() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let path = "/console/audit-log/verification";
    let organization = desk.organization.to_string();
    let form = [("org", &*organization), ("do", "verify")];
    let page = browser.post(path, &form).await;
    assert!(page.text.contains("The chain holds"), "{}", page.text);
    desk.service
        .db
        .execute(&format!(
            "SET session_replication_role = replica;
             UPDATE billing_audit_log SET resource_id = 'other' WHERE sequence = 1
                AND organization_id = '{}';
             SET session_replication_role = DEFAULT",
            desk.organization
        ))
        .await;
    assert_eq!(desk.entries("audit_log_verified", OPERATOR).await, 1);
    let page = browser.post(path, &form).await;
    assert!(
        page.text.contains("The chain breaks at entry 1"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn an_organization_is_named_by_its_external_id_whatever_that_looks_like() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let external = "0b7e8a54-9d7f-4f43-b64c-35a3b8f2a111";
    let named = format!(
        "UPDATE organizations SET external_id = '{external}' WHERE id = '{}'",
        desk.organization
    );
    desk.service.db.execute(&named).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser
        .get(&format!("/console/webhooks?org={external}"))
        .await;
    assert!(page.text.contains(">evt_1<"), "{}", page.text);

    is_ok(&browser.get("/console/audit-log").await);
    let chains = desk.service.db.count("billing_audit_chain_heads").await;
    let nobody = "5f0c8e34-1d2e-4b6e-9f3a-0d7c5b1a2e3f";
    let page = browser
        .get(&format!("/console/audit-log?org={nobody}"))
        .await;
    assert_eq!(page.status, 404, "{}", page.text);
    let form = [("org", nobody), ("do", "verify")];
    let page = browser.post("/console/audit-log/verification", &form).await;
    assert_eq!(page.status, 404, "{}", page.text);
    let now = desk.service.db.count("billing_audit_chain_heads").await;
    assert_eq!(now, chains, "no chain is begun for nobody");
}

#[tokio::test]
async fn the_log_of_all_is_of_the_last_days_unless_it_is_said() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let old = format!(
        "SET session_replication_role = replica;
         UPDATE billing_audit_log SET created_at = now() - interval '30 days'
          WHERE organization_id = '{}';
         SET session_replication_role = DEFAULT",
        desk.organization
    );
    desk.service.db.execute(&old).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let webhook = "<td role=\"cell\"><span class=\"label\" aria-hidden=\"true\">Who";
    let log = "/console/audit-log?actor=webhook";
    let page = browser.get(log).await;
    assert!(page.text.contains("No entry matches"), "{}", page.text);
    assert!(
        page.text.contains("of the last seven days"),
        "{}",
        page.text
    );
    for more in [
        "since=2020-01-01T00:00:00Z".to_owned(),
        format!("org={}", desk.organization),
    ] {
        let page = browser.get(&format!("{log}&{more}")).await;
        assert!(page.text.contains(webhook), "{more}: {}", page.text);
    }
}

#[test]
fn all_pages_are_behind_a_session() {
    let open = api::table()
        .into_iter()
        .filter(|route| route.path.starts_with("/console") && route.access != Access::Console);
    let open: Vec<String> = open.map(|route| route.path).collect();
    assert_eq!(
        open,
        ["/console/assets/console.css", "/console/assets/console.js"]
    );
}
