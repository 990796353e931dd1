//! What customers do on the pages, beside the stand-in for Stripe.

use jiff::Timestamp;
use serde_json::json;

use super::{Browser, Page};
use crate::catalogue::addons::subscribed;
use crate::subscriptions::world::{DAY, START, VISA, World, text};
use crate::support::TestService;

/// The fields of the form that confirms what a page shows.
fn confirmation(page: &Page) -> (String, Vec<(&'static str, String)>) {
    let plan = page.after("name=\"plan\" value=\"");
    let token = page.after("name=\"token\" value=\"");
    let fields = vec![("plan", plan), ("token", token)];
    (page.act("/portal/plans/change"), fields)
}

async fn confirm(browser: &mut Browser<'_>, page: &Page) -> Page {
    let (act, fields) = confirmation(page);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, text)| (*name, &**text)).collect();
    browser.post_to(&act, &fields).await
}

#[tokio::test]
async fn an_upgrade_charges_exactly_what_was_shown() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.stripe.use_card(&customer, VISA).await;
    world.create("standard").await.ok();
    world.stripe.advance(&clock, START + 10 * DAY).await;
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "billing_manager").await;
    let page = browser
        .post("/portal/plans/preview", &[("plan", "enterprise")])
        .await;
    page.is(200);
    page.says("This price holds until");
    page.says("Visa ending in 4242");
    assert_eq!(world.plan().await.0, "standard", "nothing is changed yet");
    let shown = page.after("<dt>Now</dt><dd><strong>$").replace(',', "");
    let shown = shown.split('<').next().unwrap().replace('.', "");
    let shown: i64 = shown.parse().unwrap();
    confirm(&mut browser, &page)
        .await
        .leads_to("/portal?done=changed");
    world.settle().await;
    assert_eq!(world.plan().await.0, "enterprise");
    assert_eq!(world.charged(&customer).await, [9_900, shown]);
    let page = browser.get("/portal?done=changed").await;
    page.says("Your plan is changed");
    page.says("Enterprise");
    page.says("$499.00 per month");
    let entries = "SELECT string_agg(DISTINCT actor_type, ',') FROM billing_audit_log
                    WHERE action = 'subscription_changed' AND actor_id IN (SELECT id FROM service_api_keys)";
    assert_eq!(world.service.db.value(entries).await, "api_key");
}

#[tokio::test]
async fn addons_are_chosen_with_their_price_before_and_go_again() {
    let (shop, customer, _) = subscribed(&[], json!([])).await;
    let world = &shop.world;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let page = browser.get("/portal/plans").await;
    page.says("Extra tokens");
    let field = "addon:extra_tokens";
    let ask = [("plan", "standard"), (field, "2")];
    let page = browser.post("/portal/plans/preview", &ask).await;
    page.is(200);
    page.says("Extra tokens");
    let shown = page.after("<dt>Now</dt><dd><strong>$").replace(',', "");
    let shown = shown.split('<').next().unwrap().replace('.', "");
    let shown: i64 = shown.parse().unwrap();
    assert!(shown > 0, "{}", page.text);
    let token = page.after("name=\"token\" value=\"");
    let act = page.act("/portal/plans/change");
    let chosen = page.after(&format!("name=\"{field}\" value=\""));
    let form = [("plan", "standard"), (field, &*chosen), ("token", &*token)];
    browser
        .post_to(&act, &form)
        .await
        .leads_to("/portal?done=changed");
    world.settle().await;
    let bought = world.current().await["addons"].clone();
    assert_eq!(bought, json!([{"id": "extra_tokens", "quantity": 2}]));
    assert_eq!(world.charged(&customer).await.last(), Some(&shown));
    // The form shows what there is; none of it is none.
    let page = browser.get("/portal/plans").await;
    page.says(&format!(
        "name=\"{field}\" type=\"number\" inputmode=\"numeric\" min=\"0\" max=\"10\" value=\"2\""
    ));
    let ask = [("plan", "standard"), (field, "0")];
    let page = browser.post("/portal/plans/preview", &ask).await;
    page.is(200);
    let token = page.after("name=\"token\" value=\"");
    let act = page.act("/portal/plans/change");
    assert_eq!(page.after("name=\"addon:\" value=\""), "0");
    let form = [("plan", "standard"), ("addon:", "0"), ("token", &*token)];
    let page = browser.post_to(&act, &form).await;
    assert_eq!(page.status, 303, "{}", page.text);
    world.settle().await;
    assert_eq!(world.current().await["addons"], json!([]));
    // What is no number, or too many, is said on the page.
    for number in ["x", "-1", "1.5", "4294967296", "11"] {
        let ask = [("plan", "standard"), (field, number)];
        let page = browser.post("/portal/plans/preview", &ask).await;
        page.is(422);
    }
}

#[tokio::test]
async fn the_next_invoice_and_all_of_them_as_csv_are_there() {
    let (world, ..) = World::on_clock(START).await;
    let mut browser = Browser::of(&world.service, world.organization, "member").await;
    let page = browser.get("/portal/invoices/upcoming").await;
    page.is(200);
    page.says("There is nothing that will be invoiced");
    world.create("standard").await.ok();
    world.settle().await;
    browser
        .get("/portal/invoices")
        .await
        .says("href=\"/portal/invoices/upcoming\"");
    let page = browser.get("/portal/invoices/upcoming").await;
    page.is(200);
    page.says("28 Feb 2026");
    page.says("$99.00");
    let csv = browser.get("/portal/invoices.csv").await;
    csv.is(200);
    let lines: Vec<&str> = csv.text.lines().collect();
    assert!(lines[0].starts_with("id,number,status,"), "{}", csv.text);
    assert_eq!(lines.len(), 2, "{}", csv.text);
    assert!(
        lines[1].contains(",paid,") && lines[1].contains(",9900,"),
        "{}",
        csv.text
    );
    let csv = browser.get("/portal/activity.csv").await;
    csv.is(200);
    assert!(csv.text.contains("subscription_created"), "{}", csv.text);
    // A member's has no addresses.
    assert!(!csv.text.contains("kitchen table"), "{}", csv.text);
}

#[tokio::test]
async fn a_price_that_has_changed_is_shown_anew_and_nothing_is_charged() {
    let (world, _, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let form = [("plan", "enterprise")];
    let page = browser.post("/portal/plans/preview", &form).await;
    // A token that is not the one that was given is worth as much as one that is out of date.
    let (act, mut fields) = confirmation(&page);
    fields[1].1.push('x');
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, text)| (*name, &**text)).collect();
    let stale = browser.post_to(&act, &fields).await;
    stale.is(409);
    stale.says("The price has changed");
    stale.says("This price holds until");
    assert_eq!(world.charged(&customer).await, [9_900]);
    assert_eq!(world.plan().await.0, "standard");
    // What it shows can be confirmed.
    confirm(&mut browser, &stale)
        .await
        .leads_to("/portal?done=changed");
    world.settle().await;
    assert_eq!(world.plan().await.0, "enterprise");
}

#[tokio::test]
async fn without_a_card_the_way_leads_by_stripes_page_and_back() {
    let world = World::start().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let form = [("plan", "standard")];
    let page = browser.post("/portal/plans/preview", &form).await;
    page.is(200);
    page.says("$99.00");
    page.says("There is no card to charge yet");
    assert!(!page.text.contains("/portal/plans/change"), "{}", page.text);
    let page = browser.post("/portal/payment-methods/add", &[]).await;
    page.is(200);
    let away = page.after("<a class=\"button main\" href=\"");
    assert!(away.starts_with(&world.stripe.sandbox.url()), "{away}");
    let client = &world.service.client;
    let pay = [("action", "pay"), ("number", "4242424242424242")];
    let answer = client.post(&away).form(&pay).send().await.unwrap();
    let back = answer.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(
        back,
        format!("{}/portal/payment-methods?done=added", world.service.base)
    );
    world.settle().await;
    let page = browser.get("/portal/payment-methods?done=added").await;
    page.says("Visa ending in 4242");
    let page = browser.post("/portal/plans/preview", &form).await;
    confirm(&mut browser, &page)
        .await
        .leads_to("/portal?done=changed");
    world.settle().await;
    assert_eq!(world.plan().await.0, "standard");
}

#[tokio::test]
async fn a_subscription_is_canceled_kept_and_a_change_called_off() {
    let (world, _, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let page = browser.get("/portal/cancel").await;
    page.says("stays yours until");
    // The last invoice has the usage.
    page.says("What you use beyond the plan until then, and what is open, is still charged");
    assert!(
        !page.text.contains("Nothing more is charged"),
        "{}",
        page.text
    );
    let form = [
        ("reason", "Too many <tokens>"),
        ("feedback", "too_expensive"),
    ];
    browser
        .post("/portal/cancel", &form)
        .await
        .leads_to("/portal?done=canceled");
    world.settle().await;
    browser
        .get("/portal")
        .await
        .says("Your subscription ends on");
    browser.get("/portal/cancel").await.is(409);
    browser.get("/portal/keep").await.says("Would end on");
    browser
        .post("/portal/keep", &[])
        .await
        .leads_to("/portal?done=kept");
    world.settle().await;
    let held = &world.stripe.subscriptions(&customer).await[0];
    assert_eq!(held["cancel_at_period_end"], false);
    let again = browser.post("/portal/keep", &[]).await;
    again.is(409);
    again.says("There is nothing left to do here");

    // To the free plan is a change at the period's end: the subscription ends with it.
    let page = browser
        .post("/portal/plans/preview", &[("plan", "free")])
        .await;
    page.is(200);
    page.says("It begins on");
    confirm(&mut browser, &page)
        .await
        .leads_to("/portal?done=scheduled");
    world.settle().await;
    browser
        .get("/portal")
        .await
        .says("Your subscription ends on");
    browser.get("/portal/call-off").await.is(404);
}

#[tokio::test]
async fn cards_are_chosen_and_removed_and_the_last_one_stays() {
    let world = World::start().await;
    let customer = world.stripe.post("/v1/customers", &[]).await;
    let customer = text(&customer, "id");
    world.adopt(&customer).await;
    world.stripe.use_card(&customer, VISA).await;
    world.create("standard").await.ok();
    world.stripe.use_card(&customer, "pm_card_mastercard").await;
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let page = browser.get("/portal/payment-methods").await;
    page.says("Visa ending in 4242");
    page.says("Mastercard ending in 4444");
    let visa = page.after("name=\"id\" value=\"");
    browser
        .post("/portal/payment-methods/default", &[("id", &visa)])
        .await
        .leads_to("/portal/payment-methods?done=default");
    world.settle().await;
    let page = browser.get("/portal/payment-methods").await;
    let other = page.after("name=\"id\" value=\"");
    assert_ne!(other, visa, "the other one can be chosen now");
    let remove = format!("/portal/payment-methods/remove?id={other}");
    browser.get(&remove).await.says("Mastercard ending in 4444");
    browser
        .post("/portal/payment-methods/remove", &[("id", &other)])
        .await
        .leads_to("/portal/payment-methods?done=removed");
    world.settle().await;
    let last = browser
        .post("/portal/payment-methods/remove", &[("id", &visa)])
        .await;
    last.is(409);
    last.says("This is the only card for your subscription");
    last.says("Visa ending in 4242");
}

#[tokio::test]
async fn a_payment_that_needs_its_payer_leads_on_and_can_be_called_off() {
    let (world, ..) = World::asking(START).await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let form = [("plan", "enterprise")];
    let page = browser.post("/portal/plans/preview", &form).await;
    let page = confirm(&mut browser, &page).await;
    page.is(202);
    page.says("Confirm the payment");
    let away = page.after("<a class=\"button main\" href=\"");
    assert!(away.contains("/i/in_"), "{away}");
    world.settle().await;
    assert_eq!(world.plan().await.0, "standard");
    let page = browser.get("/portal").await;
    page.says("Confirm your payment");
    page.says(&away);
    browser.get("/portal/call-off").await.says("Enterprise");
    browser
        .post("/portal/call-off", &[])
        .await
        .leads_to("/portal?done=called-off");
    world.mirrored().await;
    let page = browser.get("/portal").await;
    assert!(!page.text.contains("Confirm your payment"), "{}", page.text);
    assert_eq!(world.plan().await.0, "standard");
}

#[tokio::test]
async fn a_declined_card_is_said_and_nothing_is_changed() {
    let (world, _, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let form = [("plan", "enterprise")];
    let page = browser.post("/portal/plans/preview", &form).await;
    let page = confirm(&mut browser, &page).await;
    page.is(402);
    page.says("Your card was declined");
    page.says("This price holds until");
    world.settle().await;
    assert_eq!(world.plan().await.0, "standard");
}

#[tokio::test]
async fn a_failed_invoice_is_on_the_first_page_with_where_it_is_paid() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    world.stripe.advance(&clock, START + 32 * DAY).await;
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "member").await;
    let page = browser.get("/portal").await;
    page.says("Your last payment failed");
    page.says("Pay $99.00");
    let away = page.after("<a class=\"button main\" href=\"");
    let client = &world.service.client;
    let pay = [("action", "pay"), ("number", "4242424242424242")];
    client.post(&away).form(&pay).send().await.unwrap();
    world.settle().await;
    let page = browser.get("/portal").await;
    assert!(!page.text.contains("payment failed"), "{}", page.text);
    let page = browser.get("/portal/invoices").await;
    assert!(!page.text.contains("To be paid"), "{}", page.text);
    page.says("Paid");
    // Each has its lines, and its PDF at Stripe.
    let one = page.after("<span><a href=\"");
    browser.get(&one).await.says("Subtotal");
    let pdf = browser.get(&format!("{one}/pdf")).await;
    assert_eq!(pdf.status, 302);
    assert!(
        pdf.location.starts_with(&world.stripe.sandbox.url()),
        "{}",
        pdf.location
    );
}

#[tokio::test]
async fn usage_grace_and_what_is_over_are_shown() {
    let service = TestService::start().await;
    let organization = service.organization("Northwind").await;
    let key = service
        .api_key(
            organization,
            &valuecanvas_billing::tenancy::auth::Permission::ALL,
        )
        .await;
    for (metric, quantity) in [("api_calls", 999), ("api_calls", 201), ("storage_gb", 1)] {
        let check = json!({"metric": metric, "quantity": quantity, "consume": true,
                           "id": format!("{metric}-{quantity}")});
        let request = service.post("/api/billing/usage/check").bearer_auth(&key);
        let answer = request.json(&check).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    let mut browser = Browser::of(&service, organization, "member").await;
    let page = browser.get("/portal").await;
    page.says("API calls");
    page.says("<strong>1,200</strong> of 1,000");
    page.says("120% used");
    page.says("left over the limit");
    page.says("<strong>1 GB</strong> of 1 GB");
    let until = service
        .db
        .value("SELECT expires_at FROM grace_periods")
        .await;
    let until: Timestamp = until.replace(' ', "T").parse().unwrap();
    page.says(&until.strftime("%-d %b %Y, %H:%M UTC").to_string());
}
