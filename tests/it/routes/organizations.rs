//! `/api/organizations`: made, changed, found and archived by the product's own ids.

mod at_once;
mod search;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::support::product::{ORGANIZATIONS, Product};
use crate::support::program::run_on;
use crate::support::{TestDatabase, TestService};

/// The audit log of an organization: actions, and what was entered with them.
async fn entered(db: &TestDatabase, id: &str) -> String {
    db.value(&format!(
        "SELECT coalesce(string_agg(action, ' ' ORDER BY sequence), '') FROM billing_audit_log
          WHERE organization_id = '{id}'"
    ))
    .await
}

#[tokio::test]
async fn put_makes_an_organization_and_brings_it_to_what_it_says() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let full = json!({"name": " Acme ", "email": "ada@acme.example", "planTier": "standard",
                      "metadata": {"region": "eu"}, "stripeCustomerId": "cus_acme"});
    let made = product.put(&service, "team%2F42%20%C3%BC", &full).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.body["id"].as_str().unwrap().to_owned();
    let expected = json!({"id": id, "name": "Acme", "planTier": "standard",
        "stripeCustomerId": "cus_acme", "externalId": "team/42 ü", "email": "ada@acme.example",
        "metadata": {"region": "eu"}, "createdAt": made.body["createdAt"], "archivedAt": null});
    assert_eq!(made.body, expected);
    let again = product.put(&service, "team%2F42%20%C3%BC", &full).await;
    assert_eq!(again.ok(), expected, "nothing new changes nothing");
    assert_eq!(entered(&service.db, &id).await, "organization_created");

    // What is left out is removed, but for the customer and the plan.
    let brought = product
        .put(
            &service,
            "team%2F42%20%C3%BC",
            &json!({"name": "Acme Inc."}),
        )
        .await
        .ok();
    assert_eq!(
        (&brought["name"], &brought["email"], &brought["metadata"]),
        (&json!("Acme Inc."), &Value::Null, &json!({}))
    );
    assert_eq!(
        (&brought["planTier"], &brought["stripeCustomerId"]),
        (&json!("standard"), &json!("cus_acme"))
    );
    let path = format!("{ORGANIZATIONS}/team%2F42%20%C3%BC");
    assert_eq!(product.get(&service, &path).await.ok(), brought);
    let by_id = product
        .get(&service, &format!("{ORGANIZATIONS}/{id}"))
        .await;
    assert_eq!(by_id.ok(), brought);

    let more = json!({"name": "Acme Inc.", "planTier": "enterprise", "stripeCustomerId": "cus_2"});
    let moved = product
        .put(&service, "team%2F42%20%C3%BC", &more)
        .await
        .ok();
    assert_eq!(moved["planTier"], "enterprise");
    assert_eq!(moved["stripeCustomerId"], "cus_2");
    let quotas = product
        .get_for(&service, &id, "/api/billing/quotas")
        .await
        .ok();
    assert_eq!(quotas["data"][0]["planTier"], "enterprise", "{quotas}");
    assert_eq!(
        entered(&service.db, &id).await,
        "organization_created organization_updated organization_updated customer_linked"
    );
    let by_key = format!(
        "billing_audit_log l JOIN service_api_keys k ON k.id = l.actor_id
          WHERE l.organization_id = '{id}' AND actor_type = 'api_key'"
    );
    assert_eq!(service.db.count(&by_key).await, 4);
    let names = "billing_audit_log l WHERE l::text ~* 'acme inc|ada@|team/42|region'";
    assert_eq!(
        service.db.count(names).await,
        0,
        "nothing personal is in a chain"
    );
}

#[tokio::test]
async fn each_bad_input_names_its_field() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let long = "x".repeat(256);
    for bad in [
        "%20", "%20a", "a%20", "a%00b", "a%0Ab", "%FF", "%C2%85", &long,
    ] {
        let body = json!({"name": "Acme"});
        let refused = product.put(&service, bad, &body).await;
        assert_eq!(refused.problem(), (400, "invalid_request"), "{bad}");
        assert_eq!(refused.body["field"], "externalId", "{bad}");
        let path = format!("{ORGANIZATIONS}/{bad}");
        assert_eq!(
            product.get(&service, &path).await.problem(),
            (400, "invalid_request")
        );
        assert_eq!(
            product.archive(&service, bad).await.problem(),
            (400, "invalid_request")
        );
    }
    assert_eq!(
        product
            .put(&service, "", &json!({"name": "Acme"}))
            .await
            .status,
        404
    );
    let many: Value = (0..51)
        .map(|n| (n.to_string(), json!("")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (field, body) in [
        ("name", json!({"name": " "})),
        ("name", json!({"name": "a\nb"})),
        ("name", json!({"name": "x".repeat(201)})),
        ("email", json!({"name": "a", "email": "nobody"})),
        ("metadata", json!({"name": "a", "metadata": many})),
        (
            "metadata",
            json!({"name": "a", "metadata": {"a": "x".repeat(501)}}),
        ),
        ("metadata", json!({"name": "a", "metadata": {"": "x"}})),
        ("metadata", json!({"name": "a", "metadata": {"a\0": "x"}})),
        ("metadata", json!({"name": "a", "metadata": {"a": "\0"}})),
        (
            "stripeCustomerId",
            json!({"name": "a", "stripeCustomerId": "sub_1"}),
        ),
    ] {
        let refused = product.put(&service, "acme", &body).await;
        assert_eq!(refused.problem(), (400, "invalid_request"), "{refused:?}");
        assert_eq!(refused.body["field"], field, "{body}");
    }
    for (code, body) in [
        ("invalid_request", json!({})),
        ("invalid_request", json!({"name": null})),
        (
            "invalid_request",
            json!({"name": "a", "metadata": {"a": 1}}),
        ),
        ("unknown_field", json!({"name": "a", "externalId": "b"})),
        ("unknown_field", json!({"name": "a", "id": "b"})),
    ] {
        assert_eq!(
            product.put(&service, "acme", &body).await.problem(),
            (400, code),
            "{body}"
        );
    }
    let gold = json!({"name": "a", "planTier": "gold"});
    assert_eq!(
        product.put(&service, "acme", &gold).await.problem(),
        (422, "unknown_plan")
    );
    assert_eq!(service.db.count("organizations").await, 0);
}

#[tokio::test]
async fn patch_changes_what_it_names() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let body =
        json!({"name": "Acme", "email": "ada@acme.example", "metadata": {"a": "1", "b": "2"}});
    let made = product.put(&service, "acme", &body).await.body;
    let same = product.patch(&service, "acme", &json!({})).await.ok();
    assert_eq!(same, made);
    let change = json!({"email": null, "metadata": {"a": null, "c": "3"}});
    let changed = product.patch(&service, "acme", &change).await.ok();
    assert_eq!(changed["name"], "Acme");
    assert_eq!(changed["email"], Value::Null);
    assert_eq!(changed["metadata"], json!({"b": "2", "c": "3"}));
    let many: Value = (0..49)
        .map(|n| (n.to_string(), json!("")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let refused = product
        .patch(&service, "acme", &json!({"metadata": many}))
        .await;
    assert_eq!(refused.problem(), (400, "invalid_request"));

    // Another name holds at once, and the old one is free.
    product.make(&service, "other").await;
    let taken = product
        .patch(&service, "acme", &json!({"externalId": "other"}))
        .await;
    assert_eq!(taken.problem(), (409, "external_id_taken"));
    let renamed = product
        .patch(&service, "acme", &json!({"externalId": "acme-eu"}))
        .await
        .ok();
    assert_eq!(renamed["id"], made["id"]);
    let quotas = "/api/billing/quotas";
    let gone = product.get_for(&service, "acme", quotas).await;
    assert_eq!(gone.problem(), (404, "organization_not_found"));
    assert_eq!(
        product.get_for(&service, "acme-eu", quotas).await.status,
        200
    );
    let another = product
        .put(&service, "acme", &json!({"name": "Another"}))
        .await;
    assert_eq!(another.status, 201);
    assert_ne!(another.body["id"], made["id"]);
    let gone = product
        .patch(&service, "nobody", &json!({"name": "a"}))
        .await;
    assert_eq!(gone.problem(), (404, "organization_not_found"));
}

#[tokio::test]
async fn a_customer_belongs_to_one_organization() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    service.db.organization("cus_theirs").await;
    let theirs = json!({"name": "Acme", "stripeCustomerId": "cus_theirs"});
    let taken = (409, "stripe_customer_taken");
    assert_eq!(
        product.put(&service, "acme", &theirs).await.problem(),
        taken
    );
    assert_eq!(
        service.db.count("organizations").await,
        1,
        "nothing half done"
    );
    product.make(&service, "acme").await;
    assert_eq!(
        product.put(&service, "acme", &theirs).await.problem(),
        taken
    );
    let change = json!({"name": "Renamed", "stripeCustomerId": "cus_theirs"});
    assert_eq!(
        product.patch(&service, "acme", &change).await.problem(),
        taken
    );
    let path = format!("{ORGANIZATIONS}/acme");
    assert_eq!(
        product.get(&service, &path).await.ok()["name"],
        "Acme",
        "nothing half done"
    );
    for customer in ["cus_1", "cus_2", "cus_1"] {
        let ours = json!({"stripeCustomerId": customer});
        let linked = product.patch(&service, "acme", &ours).await.ok();
        assert_eq!(linked["stripeCustomerId"], customer);
    }
    service
        .db
        .execute("UPDATE billing_customers SET deleted_at = now()")
        .await;
    let deleted = product
        .patch(&service, "acme", &json!({"stripeCustomerId": "cus_2"}))
        .await;
    assert_eq!(deleted.problem(), (409, "stripe_customer_deleted"));
}

/// Whoever may choose an external id cannot come between another organization and its
/// id, in any of the forms of a uuid.
#[tokio::test]
async fn an_external_id_that_is_anothers_id_is_refused() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let victim = product.make(&service, "victim").await;
    let id: Uuid = victim.parse().unwrap();
    let attacker = json!({"name": "Attacker"});
    product.make(&service, "attacker").await;
    for form in [
        victim.clone(),
        victim.to_uppercase(),
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
    ] {
        let refused = product.put(&service, &form, &attacker).await;
        assert_eq!(refused.problem(), (409, "external_id_reserved"), "{form}");
        let change = json!({"externalId": form});
        let refused = product.patch(&service, "attacker", &change).await;
        assert_eq!(refused.problem(), (409, "external_id_reserved"), "{form}");
    }
    let own = product
        .patch(&service, "victim", &json!({"externalId": victim}))
        .await;
    assert_eq!(own.status, 200, "its own is no other's");
    // A uuid of the product's own is an external id like any.
    let own = Uuid::new_v4().to_string();
    let made = product.make(&service, &own).await;
    assert_ne!(made, own);
    // In no other form is our id one.
    let upper = made.to_uppercase();
    let missed = product
        .get_for(&service, &upper, "/api/billing/quotas")
        .await;
    assert_eq!(missed.problem(), (404, "organization_not_found"));
    // If there is such a pair all the same, neither is meant.
    service
        .db
        .execute(&format!(
            "UPDATE organizations SET external_id = '{made}' WHERE external_id = 'attacker'"
        ))
        .await;
    let either = product
        .get_for(&service, &made, "/api/billing/quotas")
        .await;
    assert_eq!(either.problem(), (409, "organization_ambiguous"));
    let either = product.archive(&service, &made).await;
    assert_eq!(either.problem(), (409, "organization_ambiguous"));
}

#[tokio::test]
async fn an_archived_organization_is_only_read_until_it_is_brought_back() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let product = Product::of(&service).await;
    let id = product.make(&service, "acme").await;
    let organization: Uuid = id.parse().unwrap();
    let key = service.api_key(organization, &Permission::ALL).await;
    let user = service.token(organization, Role::Owner).await;
    service
        .db
        .execute(&format!(
            "INSERT INTO billing_subscriptions (organization_id, stripe_subscription_id,
               stripe_customer_id, status, stripe_status, livemode, last_event_at, last_event_rank,
               last_event_id, tied_event_ids)
             VALUES ('{id}', 'sub_1', 'cus_1', 'past_due', 'past_due', false, now(), 0, 'evt_1', '{{}}')"
        ))
        .await;
    let billed = product.archive(&service, "acme").await;
    assert_eq!(billed.problem(), (409, "subscription_running"));
    let plan = product
        .patch(&service, "acme", &json!({"planTier": "standard"}))
        .await;
    assert_eq!(plan.problem(), (409, "subscription_running"));
    service
        .db
        .execute("UPDATE billing_subscriptions SET status = 'canceled'")
        .await;
    for _ in 0..2 {
        assert_eq!(product.archive(&service, "acme").await.status, 204);
    }
    let read = product
        .get(&other, &format!("{ORGANIZATIONS}/acme"))
        .await
        .ok();
    assert!(read["archivedAt"].is_string());
    let check = json!({"metric": "api_calls", "quantity": 1, "consume": true});
    let event = json!({"id": "e1", "metric": "api_calls", "quantity": 1});
    for replica in [&service, &other] {
        for credential in [&product.key, &key, &user] {
            let named = credential == &product.key;
            let send = async |method: Method, path: &str, body: &Value| {
                let url = format!("{}{path}", replica.base);
                let mut request = replica
                    .client
                    .request(method.clone(), url)
                    .bearer_auth(credential);
                if named {
                    request = request.header("x-organization", "acme");
                }
                if method != Method::GET {
                    request = request.json(body);
                }
                product.send(request).await
            };
            let quotas = send(Method::GET, "/api/billing/quotas", &Value::Null).await;
            assert_eq!(quotas.status, 200, "it is read");
            for (path, body) in [
                ("/api/billing/usage/check", &check),
                ("/api/billing/usage/events", &event),
                ("/api/agents/execute", &json!({"agentId": "a", "input": {}})),
                (
                    "/api/billing/subscription",
                    &json!({"planTier": "standard"}),
                ),
            ] {
                let refused = send(Method::POST, path, body).await;
                assert_eq!(refused.problem(), (409, "organization_archived"), "{path}");
            }
        }
    }
    let enforce = service
        .get("/api/enforce?metric=api_calls")
        .bearer_auth(&key);
    assert_eq!(
        product.send(enforce).await.problem(),
        (409, "organization_archived")
    );
    let logout = service
        .post("/api/auth/logout")
        .bearer_auth(&user)
        .send()
        .await
        .unwrap();
    assert_eq!(logout.status(), 204);
    let refused = product.patch(&service, "acme", &json!({"name": "a"})).await;
    assert_eq!(refused.problem(), (409, "organization_archived"));
    let each = json!([{"id": "e1", "organization": "acme", "metric": "api_calls", "quantity": 1}]);
    let request = product.request(&service, Method::POST, "/api/billing/usage/events");
    let counted = product.send(request.json(&each)).await.ok();
    assert_eq!(
        counted["results"][0]["code"], "organization_archived",
        "{counted}"
    );

    let back = product
        .put(&service, "acme", &json!({"name": "Acme"}))
        .await
        .ok();
    assert_eq!(
        (&back["id"], &back["archivedAt"]),
        (&json!(id), &Value::Null)
    );
    let counted = product
        .post_for(&other, "acme", "/api/billing/usage/check", &check)
        .await;
    assert_eq!(counted.status, 200);
    assert_eq!(
        entered(&service.db, &id).await,
        "organization_created organization_archived organization_restored"
    );
    let gone = product.archive(&service, "nobody").await;
    assert_eq!(gone.problem(), (404, "organization_not_found"));
}

#[tokio::test]
async fn an_idempotency_key_gets_the_first_answer_again_until_an_erasure() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let send = async |body: &Value| {
        let request = product.request(&service, Method::PUT, &format!("{ORGANIZATIONS}/acme"));
        product
            .send(request.header("idempotency-key", "once").json(body))
            .await
    };
    let body =
        json!({"name": "Ada Lovelace", "email": "ada@acme.example", "metadata": {"a": "secret"}});
    let first = send(&body).await;
    assert_eq!(first.status, 201, "{first:?}");
    product
        .put(
            &service,
            "acme",
            &json!({"name": "Later", "email": "ada@acme.example", "metadata": {"a": "secret"}}),
        )
        .await
        .ok();
    let again = send(&body).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = send(&json!({"name": "Other"})).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused"));

    let answers = "request_idempotency WHERE convert_from(body, 'UTF8') LIKE '%Lovelace%'";
    assert_eq!(service.db.count(answers).await, 1);
    let id = first.body["id"].as_str().unwrap();
    let erased = run_on(&service.db, &["organizations", "erase", id, "--yes"]).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    assert_eq!(service.db.count(answers).await, 0);
    let kept = "organizations o WHERE o::text ~* 'later|lovelace|secret|ada@'";
    assert_eq!(service.db.count(kept).await, 0);
    // It is gone for the product, by either name, and its name is free.
    for named in ["acme", id] {
        let gone = product
            .get(&service, &format!("{ORGANIZATIONS}/{named}"))
            .await;
        assert_eq!(gone.problem(), (404, "organization_not_found"));
        let gone = product
            .get_for(&service, named, "/api/billing/quotas")
            .await;
        assert_eq!(gone.problem(), (404, "organization_not_found"));
    }
    let listed = product.get(&service, ORGANIZATIONS).await.ok();
    assert_eq!(listed["data"], json!([]));
    assert_ne!(product.make(&service, "acme").await, id);
}
