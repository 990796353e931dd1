//! `/api/billing/invoices`

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::events::{event, invoice};

/// Invoices in_0 to in_n of `customer`, an hour apart.
async fn bill(service: &TestService, customer: &str, count: i64) {
    for n in 0..count {
        let id = format!("in_{customer}_{n:02}");
        let mut object = invoice(&id, customer, "sub_1", "open");
        object["created"] = json!(1_760_000_000 + n * 3_600);
        object["invoice_pdf"] = json!(format!("https://pay.example.com/{id}/pdf"));
        let id = format!("evt_{customer}_{n}");
        service
            .deliver(&event(&id, "invoice.finalized", 1_760_000_000 + n, object))
            .await;
    }
    service.settle().await;
}

async fn get(service: &TestService, token: &str, path: &str) -> (u16, Value) {
    let response = service.get(path).bearer_auth(token).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

async fn two_tenants() -> (TestService, String, String) {
    let service = TestService::start().await;
    let mut tokens = Vec::new();
    for customer in ["cus_1", "cus_2"] {
        let organization: Uuid = service.db.organization(customer).await;
        tokens.push(service.token(organization, Role::Member).await);
    }
    bill(&service, "cus_1", 5).await;
    bill(&service, "cus_2", 1).await;
    let other = tokens.pop().unwrap();
    (service, tokens.pop().unwrap(), other)
}

#[tokio::test]
async fn a_list_is_paged_newest_first_and_of_one_organization() {
    let (service, token, _) = two_tenants().await;
    let mut path = "/api/billing/invoices?limit=2".to_owned();
    let mut ids = Vec::new();
    loop {
        let (status, page) = get(&service, &token, &path).await;
        assert_eq!(status, 200, "{page}");
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2);
        ids.extend(
            data.iter()
                .map(|invoice| invoice["id"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/api/billing/invoices?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..5).rev().map(|n| format!("in_cus_1_{n:02}")).collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn one_invoice_has_its_lines_and_leads_to_its_pdf() {
    let (service, token, other) = two_tenants().await;
    let (status, invoice) = get(&service, &token, "/api/billing/invoices/in_cus_1_00").await;
    assert_eq!(status, 200);
    assert_eq!(invoice["totalAmount"], 9_900);
    assert_eq!(invoice["currency"], "usd");
    assert_eq!(invoice["lines"][0]["amount"], 9_900);
    assert_eq!(invoice["createdAt"], "2025-10-09T08:53:20Z");
    let pdf = "/api/billing/invoices/in_cus_1_00/pdf";
    let direct = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let request = direct
        .get(format!("{}{pdf}", service.base))
        .bearer_auth(&token);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(
        response.headers()["location"],
        "https://pay.example.com/in_cus_1_00/pdf"
    );
    for path in [
        "/api/billing/invoices/in_cus_1_00",
        pdf,
        "/api/billing/invoices/none",
    ] {
        let (status, problem) = get(&service, &other, path).await;
        assert_eq!(
            (status, &problem["code"]),
            (404, &json!("not_found")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let (service, token, _) = two_tenants().await;
    for (query, code) in [
        ("limit=0", "invalid_query"),
        ("limit=101", "invalid_query"),
        ("limit=-1", "invalid_query"),
        ("limit=abc", "invalid_query"),
        ("organizationId=x", "unknown_field"),
        ("cursor=forged", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
    ] {
        let path = format!("/api/billing/invoices?{query}");
        let (status, problem) = get(&service, &token, &path).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{query}");
    }
}

#[tokio::test]
async fn a_draft_is_not_in_the_list_until_it_is_finalized() {
    let (service, token, _) = two_tenants().await;
    let listed = async || {
        let (_, page) = get(&service, &token, "/api/billing/invoices?limit=50").await;
        page["data"].as_array().unwrap().len()
    };
    let before = listed().await;
    let of = |status: &str| invoice("in_draft", "cus_1", "sub_1", status);
    let told = event("evt_draft", "invoice.created", 1_760_100_000, of("draft"));
    service.deliver(&told).await;
    service.settle().await;
    assert_eq!(listed().await, before);
    let told = event("evt_open", "invoice.finalized", 1_760_100_001, of("open"));
    service.deliver(&told).await;
    service.settle().await;
    assert_eq!(listed().await, before + 1);
}
