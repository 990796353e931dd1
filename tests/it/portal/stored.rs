//! What others wrote is shown as text, whatever it is: nothing of it is markup.

use serde_json::json;

use super::{Browser, PAGES};
use crate::support::TestService;
use crate::support::events::{event, invoice};

const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&";

#[tokio::test]
async fn nothing_that_is_stored_is_ever_markup_or_a_link_to_a_script() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let evil = EVIL.replace('\'', "''");
    service
        .db
        .execute(&format!(
            "UPDATE organizations SET name = '{evil}', external_id = 'a{evil}'
              WHERE id = '{organization}'"
        ))
        .await;
    let mut object = invoice("in_1", "cus_1", "sub_1", "open");
    object["number"] = json!(EVIL);
    object["hosted_invoice_url"] = json!("javascript:alert(1)");
    object["invoice_pdf"] = json!("javascript:alert(1)");
    object["amount_remaining"] = json!(9_900);
    let made = event("evt_1", "invoice.finalized", 1_767_225_600, object);
    service.deliver(&made).await;
    let card = json!({"id": "pm_1", "object": "payment_method", "customer": "cus_1", "type": EVIL,
                      "livemode": false, "metadata": {}, "created": 1_767_225_600,
                      "card": {"brand": EVIL, "last4": "<b>4", "exp_month": 1, "exp_year": 2031,
                               "funding": "credit", "country": "US"}});
    let made = event("evt_2", "payment_method.attached", 1_767_225_601, card);
    service.deliver(&made).await;
    service.settle().await;
    service
        .db
        .execute(&format!(
            "UPDATE billing_invoice_items SET description = '{evil}';
             SELECT log_billing_action('{organization}', 'a{evil}', 'user',
               p_resource_type => 'b{evil}', p_resource_id => 'c{evil}', p_user_agent => '{evil}')"
        ))
        .await;
    let mut browser = Browser::of(&service, organization, "owner").await;
    let further = [
        "/portal/invoices/in_1",
        "/portal/payment-methods/remove?id=pm_1",
    ];
    let mut shown = 0;
    for path in PAGES.into_iter().chain(further) {
        let page = browser.get(path).await;
        page.is(200);
        for markup in [
            "<script",
            "<img",
            "onerror=alert(1)>",
            "href=\"javascript",
            "<b>4",
        ] {
            assert!(!page.text.contains(markup), "{path}: {}", page.text);
        }
        shown += usize::from(page.text.contains("alert(1)"));
    }
    assert!(shown >= 6, "it is shown on {shown} pages");
    let pdf = browser.get("/portal/invoices/in_1/pdf").await;
    pdf.is(404);
    // Nor is anything that a browser sends.
    for path in [
        "/portal?done=%3Cscript%3E",
        "/portal/enter?code=%3Cscript%3E",
        "/portal/payment-methods?done=%22%3E%3Cscript%3E",
        "/portal/%3Cscript%3E",
    ] {
        let page = browser.get(path).await;
        assert!(!page.text.contains("<script"), "{path}: {}", page.text);
    }
    let form = [("plan", EVIL), ("code", EVIL), ("interval", EVIL)];
    let page = browser.post("/portal/plans/preview", &form).await;
    assert!(!page.text.contains("<script"), "{}", page.text);
    let form = [("plan", EVIL), ("code", EVIL)];
    let page = browser.post("/portal/plans/preview", &form).await;
    assert!(!page.text.contains("<script"), "{}", page.text);
}
