//! `organizations`: external ids, what support sees, other customers, erasure.

use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Role;

use crate::subscriptions::world::{VISA, World};
use crate::support::events;
use crate::support::program::{Ran, program_with_stripe, run_beside, run_on};
use crate::support::{TestDatabase, TestService};

async fn organizations(db: &TestDatabase, arguments: &[&str]) -> Ran {
    let arguments = [&["organizations"], arguments].concat();
    run_on(db, &arguments).await
}

#[tokio::test]
async fn an_organization_is_known_by_the_products_own_id() {
    let db = TestDatabase::new().await;
    let create = |external: &'static str, more: &'static [&'static str]| {
        let first = [
            "create",
            "--name",
            "Acme",
            "--external-id",
            external,
            "--json",
        ];
        [&first[..], more].concat()
    };
    let made = organizations(
        &db,
        &create("team/42 ü", &["--email", "billing@acme.example"]),
    )
    .await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let made = made.json();
    assert_eq!(made["externalId"], "team/42 ü");
    assert_eq!(made["email"], "billing@acme.example");
    let again = organizations(&db, &create("team/42 ü", &[])).await;
    assert_eq!(again.status, 1, "{}", again.stderr);
    for bad in ["", " ", "a\tb"] {
        assert_eq!(
            organizations(&db, &create(bad, &[])).await.status,
            2,
            "{bad:?}"
        );
    }
    let bad = organizations(&db, &create("x", &["--email", "nobody"])).await;
    assert_eq!(bad.status, 2);
    let list = organizations(&db, &["list", "--json"]).await.json();
    assert_eq!(list[0]["externalId"], "team/42 ü");
    for named in ["team/42 ü", made["id"].as_str().unwrap()] {
        let shown = organizations(&db, &["show", named, "--json"]).await;
        assert_eq!(shown.json()["organization"]["id"], made["id"]);
    }
    assert_eq!(organizations(&db, &["show", "nobody"]).await.status, 1);
}

#[tokio::test]
async fn support_sees_why_a_customer_was_charged_and_can_link_another_customer() {
    let world = World::start().await;
    let db = &world.service.db;
    let first = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let id = world.organization.to_string();
    let shown = organizations(db, &["show", "--organization", &id, "--json"])
        .await
        .json();
    assert_eq!(shown["organization"]["planTier"], "standard");
    assert_eq!(
        shown["subscriptions"][0]["items"][0]["lookupKey"],
        "valuecanvas_standard_monthly"
    );
    assert_eq!(shown["invoices"][0]["totalAmount"], 9900);
    assert_eq!(shown["invoices"][0]["lines"][0]["amount"], 9900);
    assert_eq!(shown["charges"][0]["amount"], 9900);
    assert_eq!(shown["quotas"].as_array().unwrap().len(), 5);
    let text = organizations(db, &["show", &id]).await;
    assert!(
        text.status == 0 && text.stdout.contains("invoices: 1"),
        "{}",
        text.stdout
    );

    let second = world.stripe.customer(VISA, None).await;
    let link = async |organization: &str, customer: &str| {
        organizations(
            db,
            &["link-customer", organization, "--stripe-customer", customer],
        )
        .await
    };
    assert_eq!(link(&id, "nonsense").await.status, 2);
    assert_eq!(link(&id, &second).await.status, 0);
    assert_eq!(
        link(&id, &second).await.status,
        0,
        "said twice, it is the same"
    );
    let other = world.service.organization("Other").await.to_string();
    assert_eq!(
        link(&other, &first).await.status,
        1,
        "it is somebody else's"
    );
    let linked = "billing_audit_log WHERE action = 'customer_linked'";
    assert_eq!(db.count(linked).await, 1);
    world.cancel(true).await.ok();
    world.create("standard").await.ok();
    assert_eq!(world.stripe.subscriptions(&second).await.len(), 1);
}

#[tokio::test]
async fn erasure_leaves_money_and_the_chain_and_nobodys_name() {
    let world = World::start().await;
    let db = &world.service.db;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let id = world.organization.to_string();
    db.execute(&format!(
        "UPDATE organizations SET name = 'Ada Lovelace', email = 'ada@lovelace.example',
                external_id = 'ada-1' WHERE id = '{id}';
         INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@lovelace.example');
         INSERT INTO organization_members (organization_id, user_id, role)
           SELECT '{id}', id, 'owner' FROM users WHERE email = 'ada@lovelace.example'"
    ))
    .await;
    // Who belongs to another organization as well stays.
    let other = world.service.organization("Other").await;
    world.service.token(other, Role::Owner).await;
    db.execute(&format!(
        "INSERT INTO organization_members (organization_id, user_id, role)
           SELECT '{id}', user_id, 'member' FROM organization_members WHERE organization_id = '{other}'"
    ))
    .await;
    let erase = async |more: &[&str]| {
        let arguments = [&["erase", "--organization", &id, "--json"], more].concat();
        organizations(db, &arguments).await
    };
    assert_eq!(erase(&[]).await.status, 2, "nobody said yes");
    let running = erase(&["--yes"]).await;
    assert_eq!(running.status, 1);
    assert!(
        running.stderr.contains("still running"),
        "{}",
        running.stderr
    );
    assert_eq!(
        db.count("billing_payment_methods").await,
        1,
        "nothing was touched"
    );

    world.cancel(true).await.ok();
    world.settle().await;
    let money =
        "SELECT string_agg(total_amount || ' ' || amount_paid, ',' ORDER BY stripe_invoice_id)
                   FROM billing_invoices";
    let before = db.value(money).await;
    let erased = erase(&["--yes"]).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    assert_eq!(erased.json()["stripeCustomers"], json!([customer]));
    assert_eq!(db.value(money).await, before);
    for gone in [
        "organizations WHERE name = 'Ada Lovelace' OR email IS NOT NULL OR external_id IS NOT NULL"
            .to_owned(),
        "users WHERE email LIKE 'ada@%'".to_owned(),
        format!("organization_members WHERE organization_id = '{id}'"),
        "user_sessions s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)".to_owned(),
        format!("billing_payment_methods WHERE organization_id = '{id}'"),
        format!("webhook_events WHERE payload::text LIKE '%{customer}%'"),
        format!("billing_stripe_requests WHERE organization_id = '{id}' AND context <> '{{}}'"),
        format!("billing_charges WHERE organization_id = '{id}' AND card_last4 IS NOT NULL"),
        format!("request_idempotency WHERE organization_id = '{id}'"),
    ] {
        assert_eq!(db.count(&gone).await, 0, "{gone}");
    }
    assert_eq!(
        db.count(&format!(
            "organization_members WHERE organization_id = '{other}'"
        ))
        .await,
        1
    );
    let verified = run_on(db, &["audit", "verify"]).await;
    assert_eq!(verified.status, 0, "{}{}", verified.stdout, verified.stderr);
    // Again, and in Stripe.
    let arguments = [
        "organizations",
        "erase",
        "--organization",
        &id,
        "--yes",
        "--stripe",
        "--json",
    ];
    let command = program_with_stripe(db, &world.stripe.sandbox.url(), &arguments);
    let again = run_beside(command).await;
    assert_eq!(
        (again.status, &again.json()["again"]),
        (0, &Value::Bool(true)),
        "{}",
        again.stderr
    );
    let path = format!("/v1/customers/{customer}");
    assert_eq!(world.stripe.get(&path, &[]).await["deleted"], true);
}

#[tokio::test]
async fn no_table_has_personal_data_of_an_erased_organization() {
    let service = TestService::start().await;
    let db = &service.db;
    let create = [
        "create",
        "--name",
        "Ada Lovelace",
        "--external-id",
        "lovelace-1",
        "--email",
        "ada@lovelace.example",
        "--stripe-customer",
        "cus_ada",
        "--json",
    ];
    let made = organizations(db, &create).await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let user = [
        "users",
        "create",
        "--organization",
        &id,
        "--email",
        "byron@lovelace.example",
        "--role",
        "owner",
        "--generate-password",
    ];
    let added = run_on(db, &user).await;
    assert_eq!(added.status, 0, "{}", added.stderr);
    let mut object = events::invoice("in_ada", "cus_ada", "sub_ada", "open");
    object["hosted_invoice_url"] = json!("https://invoice.stripe.example/lovelace");
    object["description"] = json!("For Ada Lovelace");
    let asked = "invoice.payment_action_required";
    let event = events::event("evt_ada", asked, 1_767_225_600, object);
    service.deliver(&event).await;
    service.settle().await;

    // By another's SQL, by an operator's command, and by their own request.
    db.execute(&format!(
        "SELECT log_billing_action('{id}', 'called', 'user', p_resource_type => 'desk',
                                   p_ip_address => '203.0.113.77', p_user_agent => 'Ada''s browser')"
    ))
    .await;
    let set = [
        "features",
        "set",
        "--organization",
        &id,
        "--feature",
        "sso",
        "--value",
        "true",
        "--reason",
        "promised to Ada by phone",
    ];
    let promised = run_on(db, &set).await;
    assert_eq!(promised.status, 0, "{}", promised.stderr);

    let key = [
        "api-keys",
        "create",
        "--organization",
        &id,
        "--name",
        "Ada's laptop",
        "--scope",
        "billing.read",
    ];
    let made = run_on(db, &key).await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let card = json!({"id": "pm_ada", "object": "payment_method", "customer": "cus_ada", "type": "card",
                      "livemode": false, "metadata": {}, "created": 1_767_225_600,
                      "card": {"brand": "visa", "last4": "7391", "exp_month": 1, "exp_year": 2031,
                               "funding": "credit", "country": "SM"}});
    let event = events::event(
        "evt_card",
        "payment_method.attached",
        1_767_225_601,
        card.clone(),
    );
    service.deliver(&event).await;
    service.settle().await;
    // An entry has what was there before as well.
    let event = events::event("evt_again", "payment_method.updated", 1_767_225_602, card);
    service.deliver(&event).await;
    service.settle().await;

    // What is applied again changes nothing, and is no entry.
    let entries = "billing_audit_log WHERE resource_type = 'payment_method'";
    assert_eq!(db.count(entries).await, 2);
    let replayed = run_on(db, &["webhooks", "replay", "evt_again"]).await;
    assert_eq!(replayed.status, 0, "{}", replayed.stderr);
    assert_eq!(db.count(entries).await, 2);

    // Each is somewhere before, and nowhere afterwards.
    let personal = [
        "s laptop",
        "\"7391\"",
        "203.0.113.77",
        "s browser",
        "promised to Ada by phone",
        "Ada Lovelace",
        "lovelace-1",
        "ada@lovelace.example",
        "byron@lovelace.example",
        "https://invoice.stripe.example/lovelace",
    ];
    for text in personal {
        assert_ne!(tables_with(db, text).await, Vec::<String>::new(), "{text}");
    }
    let alert = "SELECT message FROM billing_alerts";
    assert!(db.value(alert).await.contains("stripe.example"));
    let erased = organizations(db, &["erase", "--organization", &id, "--yes"]).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    for text in personal {
        assert_eq!(tables_with(db, text).await, Vec::<String>::new(), "{text}");
    }
    let verified = run_on(db, &["audit", "verify"]).await;
    assert_eq!(verified.status, 0, "{}{}", verified.stdout, verified.stderr);
}

#[tokio::test]
async fn a_customer_is_linked_if_stripe_has_it_and_who_still_pays_is_said() {
    let world = World::start().await;
    let db = &world.service.db;
    let first = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let id = world.organization.to_string();
    let asked = async |arguments: &[&str]| {
        let command = program_with_stripe(
            db,
            &world.stripe.sandbox.url(),
            &[&["organizations"], arguments].concat(),
        );
        run_beside(command).await
    };
    let deleted = world.stripe.customer(VISA, None).await;
    let path = format!("/v1/customers/{deleted}");
    world.stripe.send(reqwest::Method::DELETE, &path, &[]).await;
    for (customer, said) in [
        ("cus_nobody", "Stripe has no customer"),
        (&*deleted, "was deleted in Stripe"),
    ] {
        for arguments in [
            &["link-customer", &id, "--stripe-customer", customer][..],
            &["create", "--name", "Another", "--stripe-customer", customer],
        ] {
            let refused = asked(arguments).await;
            assert_eq!(refused.status, 1, "{arguments:?}: {}", refused.stdout);
            assert!(refused.stderr.contains(said), "{}", refused.stderr);
        }
    }
    assert_eq!(db.count("billing_customers").await, 1);
    let second = world.stripe.customer(VISA, None).await;
    let linked = asked(&["link-customer", &id, "--stripe-customer", &second]).await;
    assert_eq!(linked.status, 0, "{}", linked.stderr);
    let said = format!("runs on the customer {first}, who goes on paying");
    assert!(linked.stderr.contains(&said), "{}", linked.stderr);

    // One that was mistyped without a key, and superseded, is forgotten.
    let typo = ["link-customer", &id, "--stripe-customer", "cus_typo"];
    assert_eq!(organizations(db, &typo).await.status, 0);
    assert_eq!(
        asked(&["link-customer", &id, "--stripe-customer", &first])
            .await
            .status,
        0
    );
    for (more, status) in [(&[][..], 1), (&["--apply"], 0), (&[], 0)] {
        let command = program_with_stripe(
            db,
            &world.stripe.sandbox.url(),
            &[&["subscriptions", "reconcile"], more].concat(),
        );
        let ran = run_beside(command).await;
        assert_eq!(ran.status, status, "{more:?}: {}{}", ran.stdout, ran.stderr);
    }
}

#[tokio::test]
async fn the_link_to_a_superseded_customer_is_taken_back_unless_money_hangs_on_it() {
    let world = World::start().await;
    let first = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let db = &world.service.db;
    let id = db.value("SELECT id FROM organizations").await;
    let customer = async |verb: &'static str, of: &str, customer: &str| {
        organizations(db, &[verb, of, "--stripe-customer", customer, "--json"]).await
    };
    let refused = async |unlinked: &str, why: &str| {
        let ran = customer("unlink-customer", &id, unlinked).await;
        assert_eq!(ran.status, 1, "{}", ran.stdout);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    };
    refused(&first, "link another one first").await;
    refused("cus_nobody", "is not linked").await;
    let second = world.stripe.customer(VISA, None).await;
    assert_eq!(customer("link-customer", &id, &second).await.status, 0);
    refused(&first, "runs on the Stripe customer").await;
    db.execute("UPDATE billing_subscriptions SET status = 'canceled'")
        .await;
    db.execute("UPDATE billing_invoices SET status = 'open'")
        .await;
    refused(&first, "is open").await;
    db.execute("UPDATE billing_invoices SET status = 'paid'")
        .await;
    let ran = customer("unlink-customer", &id, &first).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.json(), json!({"id": id, "stripeCustomerId": first}));
    refused(&first, "is not linked").await;
    assert_eq!(
        db.value("SELECT string_agg(stripe_customer_id, ' ') FROM billing_customers")
            .await,
        second
    );
    let entries = "billing_audit_log WHERE action = 'customer_unlinked'";
    assert_eq!(db.count(entries).await, 1);
    assert_eq!(run_on(db, &["audit", "verify"]).await.status, 0);
    // Another organization may have it now.
    let made = ["create", "--name", "Another", "--stripe-customer", &first];
    assert_eq!(organizations(db, &made).await.status, 0);
}

/// The tables of which any row has `text` anywhere.
async fn tables_with(db: &TestDatabase, text: &str) -> Vec<String> {
    let tables = db
        .value("SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'")
        .await;
    let mut found = Vec::new();
    for table in tables.split(',') {
        let rows = format!("{table} row WHERE to_jsonb(row)::text LIKE '%{text}%'");
        if db.count(&rows).await > 0 {
            found.push(table.to_owned());
        }
    }
    found
}
