//! `/api/organizations`: made, changed, found and archived by the product's own ids.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::subscriptions::world::{SUBSCRIPTION, World};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_make_one() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let product = Product::of(&service).await;
    let body = json!({"name": "Acme", "email": "ada@acme.example"});
    let puts = (0..1_000).map(|n| {
        let (product, body) = (&product, &body);
        let replica = if n % 2 == 0 { &service } else { &other };
        async move {
            loop {
                let answer = product.put(replica, "acme", body).await;
                if answer.status != 429 {
                    return (answer.status, answer.body["id"].clone());
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    });
    let answers = join_all(puts).await;
    let made = answers.iter().filter(|(status, _)| *status == 201).count();
    let found = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((made, found), (1, 999));
    let id = &answers[0].1;
    assert!(answers.iter().all(|(_, other)| other == id));
    assert_eq!(service.db.count("organizations").await, 1);
    assert_eq!(
        entered(&service.db, id.as_str().unwrap()).await,
        "organization_created"
    );
    let heads = "billing_audit_chain_heads WHERE last_sequence > 0";
    assert_eq!(service.db.count(heads).await, 1, "losers leave nothing");
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
async fn a_list_is_searched_by_any_name_and_paged() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    for n in 0..30 {
        let body = json!({"name": format!("Union {n:02}"), "email": format!("Ada{n}@Example.com"),
                          "stripeCustomerId": format!("cus_{n}")});
        assert_eq!(
            product
                .put(&service, &format!("team-{n}"), &body)
                .await
                .status,
            201
        );
    }
    let names = async |query: &str| {
        let page = product
            .get(&service, &format!("{ORGANIZATIONS}{query}"))
            .await
            .ok();
        let names = page["data"].as_array().unwrap().iter();
        let names: Vec<String> = names
            .map(|o| o["externalId"].as_str().unwrap().to_owned())
            .collect();
        (names, page["nextCursor"].as_str().map(str::to_owned))
    };
    let (first, next) = names("?limit=20").await;
    assert_eq!((first.len(), first[0].as_str()), (20, "team-0"));
    let (second, end) = names(&format!("?limit=20&cursor={}", next.unwrap())).await;
    assert_eq!((second.len(), end), (10, None));
    for (query, found) in [
        ("team-7", vec!["team-7"]),
        ("Team-7", vec![]),
        (
            "uNION%200",
            vec![
                "team-0", "team-1", "team-2", "team-3", "team-4", "team-5", "team-6", "team-7",
                "team-8", "team-9",
            ],
        ),
        ("ADA3@", vec!["team-3"]),
        ("cus_12", vec!["team-12"]),
        ("nion", vec![]),
        ("%25", vec![]),
        ("_", vec![]),
    ] {
        assert_eq!(names(&format!("?query={query}")).await.0, found, "{query}");
    }
    let id = product.make(&service, "other").await;
    assert_eq!(names(&format!("?query={id}")).await.0, ["other"]);
    let (two, next) = names("?query=team-1&limit=2").await;
    assert_eq!(two, ["team-1", "team-10"]);
    let (rest, _) = names(&format!(
        "?query=team-1&limit=2&cursor={}",
        next.clone().unwrap()
    ))
    .await;
    assert_eq!(rest, ["team-11", "team-12"]);
    let wrong = format!("{ORGANIZATIONS}?query=team-2&cursor={}", next.unwrap());
    assert_eq!(
        product.get(&service, &wrong).await.problem(),
        (400, "invalid_cursor")
    );
    assert_eq!(
        product
            .get(&service, &format!("{ORGANIZATIONS}?query=%00"))
            .await
            .problem(),
        (400, "invalid_text")
    );
}

/// No search reads the table from end to end.
#[tokio::test]
async fn searches_use_their_indexes() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO organizations (id, name, external_id, email)
         SELECT gen_random_uuid(), 'Name ' || n, 'team-' || n, n || '@example.com'
           FROM generate_series(1, 50000) n;
         ANALYZE organizations",
    )
    .await;
    let mut conn = db.pool.acquire().await.unwrap();
    // As the service searches, and as it is planned for any text.
    sqlx::raw_sql(
        "SET ROLE billing_worker; SET plan_cache_mode = force_generic_plan;
         PREPARE search(uuid, uuid, text) AS
           SELECT o.id FROM organizations o
            WHERE o.erased_at IS NULL
              AND (o.id = $1 OR o.id = $2
                   OR (o.external_id COLLATE \"C\" >= $3
                       AND o.external_id COLLATE \"C\" < $3 || chr(1114111))
                   OR (o.folded_name COLLATE \"C\" >= lower($3)
                       AND o.folded_name COLLATE \"C\" < lower($3) || chr(1114111))
                   OR (o.folded_email COLLATE \"C\" >= lower($3)
                       AND o.folded_email COLLATE \"C\" < lower($3) || chr(1114111)))
            ORDER BY o.created_at, o.id LIMIT 26",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let plan: Vec<String> = sqlx::query_scalar("EXPLAIN EXECUTE search(NULL, NULL, 'team-77')")
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    let plan = plan.join("\n");
    for index in [
        "organizations_external_id_search_idx",
        "organizations_name_search_idx",
        "organizations_email_search_idx",
        "organizations_pkey",
    ] {
        assert!(plan.contains(index), "{plan}");
    }
    assert!(!plan.contains("Seq Scan"), "{plan}");
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

/// Customers that sign up in the same moment wait for one another a little, and none is
/// turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sign_up_at_once() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let puts = (0..100).map(|n| {
        let (product, service) = (&product, &service);
        async move {
            let body = json!({"name": format!("Customer {n}")});
            product
                .put(service, &format!("customer-{n}"), &body)
                .await
                .status
        }
    });
    let answers = join_all(puts).await;
    assert!(answers.iter().all(|status| *status == 201), "{answers:?}");
    assert_eq!(service.db.count("organizations").await, 100);
    let quotas = "(SELECT DISTINCT organization_id FROM usage_quotas) q";
    assert_eq!(service.db.count(quotas).await, 100);
}

/// A subscription that begins in the moment of an archiving: one of them waits for the
/// other, and whichever is second is refused.
#[tokio::test]
async fn what_is_archived_meanwhile_asks_stripe_for_nothing() {
    let world = World::start().await;
    let service = &world.service;
    let product = Product::of(service).await;
    let body = json!({"name": "Acme", "stripeCustomerId": "cus_other"});
    let made = product.put(service, "acme", &body).await;
    let id = made.body["id"].as_str().unwrap().to_owned();
    let mut archiving = service.db.pool.begin().await.unwrap();
    sqlx::query("UPDATE organizations SET archived_at = now() WHERE external_id = 'acme'")
        .execute(&mut *archiving)
        .await
        .unwrap();
    let subscribe = json!({"planTier": "standard"});
    let subscribing = product.post_for(service, "acme", SUBSCRIPTION, &subscribe);
    let committing = async {
        let waits =
            "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while service.db.count(waits).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        archiving.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(subscribing, committing);
    assert_eq!(answer.status, 503, "{answer:?}");
    let requests = format!("billing_stripe_requests WHERE organization_id = '{id}'");
    assert_eq!(service.db.count(&requests).await, 0);
    let again = product
        .post_for(service, "acme", SUBSCRIPTION, &subscribe)
        .await;
    assert_eq!(again.problem(), (409, "organization_archived"));

    // The other way round: what is under way is not archived.
    product.put(service, "acme", &body).await.ok();
    let open = format!(
        "INSERT INTO billing_stripe_requests (organization_id, id, subject, operation, params)
         VALUES ('{id}', gen_random_uuid(), 'subscription', 'create', '{{}}')"
    );
    service.db.execute(&open).await;
    let refused = product.archive(service, "acme").await;
    assert_eq!(refused.problem(), (409, "subscription_running"));
    let archived = "organizations WHERE archived_at IS NOT NULL";
    assert_eq!(service.db.count(archived).await, 0, "nothing half done");
}
