//! Idempotency and fault injection.

use futures_util::future::join_all;

use crate::support::{Fields, World, text};

async fn customers(world: &World) -> usize {
    let list = world.get("/v1/customers", &[("limit", "100")]).await.ok();
    list["data"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_response() {
    let world = World::new().await;
    let fields: Fields<'_> = &[("name", "Once")];
    let first = world
        .send("POST", "/v1/customers", fields, Some("k"))
        .await
        .expect("a response");
    let again = world
        .send("POST", "/v1/customers", fields, Some("k"))
        .await
        .expect("a response");
    assert_eq!(first.body, again.body);
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    let error = world
        .send("POST", "/v1/customers", &[("name", "Twice")], Some("k"))
        .await
        .expect("a response")
        .error(400);
    assert_eq!(error["type"], "idempotency_error");
    let long = "k".repeat(256);
    world
        .send("POST", "/v1/customers", fields, Some(&long))
        .await
        .expect("a response")
        .error(400);
    assert_eq!(customers(&world).await, 1);
    let events = world.get("/v1/events", &[]).await.ok();
    assert_eq!(events["data"][0]["request"]["idempotency_key"], "k");
}

#[tokio::test]
async fn bad_parameters_do_not_use_up_a_key_but_server_errors_do() {
    let world = World::new().await;
    let send = |fields: Fields<'static>, key: &'static str| {
        world.send("POST", "/v1/customers", fields, Some(key))
    };
    send(&[("nmae", "x")], "bad")
        .await
        .expect("a response")
        .error(400);
    send(&[("name", "x")], "bad")
        .await
        .expect("a response")
        .ok();
    world
        .post(
            "/_sandbox/faults",
            &[("fault", "server_error"), ("path", "/v1/customers")],
        )
        .await
        .ok();
    send(&[("name", "y")], "broken")
        .await
        .expect("a response")
        .error(500);
    let again = send(&[("name", "y")], "broken").await.expect("a response");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    again.error(500);
    assert_eq!(customers(&world).await, 1);
}

#[tokio::test]
async fn a_rate_limit_has_a_retry_after() {
    let world = World::new().await;
    let fault = [
        ("fault", "rate_limit"),
        ("path", "/v1/cust*"),
        ("next", "2"),
        ("retry_after", "7"),
    ];
    world.post("/_sandbox/faults", &fault).await.ok();
    for _ in 0..2 {
        let reply = world.get("/v1/customers", &[]).await;
        assert_eq!(reply.header("retry-after"), Some("7"));
        assert_eq!(reply.error(429)["code"], "rate_limit");
    }
    world.get("/v1/customers", &[]).await.ok();
}

#[tokio::test]
async fn a_lost_response_is_recovered_by_its_key() {
    let world = World::new().await;
    for (number, (fault, acted)) in [
        ("drop", false),
        ("drop_after_acting", true),
        ("timeout", true),
        ("server_error_after_acting", true),
    ]
    .into_iter()
    .enumerate()
    {
        let before = customers(&world).await;
        world
            .post("/_sandbox/faults", &[("fault", fault), ("method", "POST")])
            .await
            .ok();
        let key = format!("lost-{number}");
        let fields: Fields<'_> = &[("name", fault)];
        let lost = world
            .send("POST", "/v1/customers", fields, Some(&key))
            .await;
        assert!(lost.is_none_or(|reply| reply.status == 500), "{fault}");
        assert_eq!(
            customers(&world).await - before,
            usize::from(acted),
            "{fault}"
        );
        let found = world
            .send("POST", "/v1/customers", fields, Some(&key))
            .await
            .expect("a response");
        let replayed = found.header("idempotent-replayed").is_some();
        assert_eq!(replayed, acted, "{fault}");
        assert_eq!(customers(&world).await - before, 1, "{fault}");
    }
}

#[tokio::test]
async fn every_nth_call_fails_until_the_faults_are_cleared() {
    let world = World::new().await;
    world
        .post(
            "/_sandbox/faults",
            &[("fault", "lock_timeout"), ("every", "3")],
        )
        .await
        .ok();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(world.get("/v1/account", &[]).await.status);
    }
    assert_eq!(statuses, [200, 200, 409, 200, 200, 409]);
    let faults = world.get("/_sandbox/faults", &[]).await.ok();
    assert_eq!(faults["data"][0]["struck"], 2);
    world.delete("/_sandbox/faults", &[]).await.ok();
    for _ in 0..3 {
        world.get("/v1/account", &[]).await.ok();
    }
    let error = world
        .post("/_sandbox/faults", &[("fault", "earthquake")])
        .await
        .error(400);
    assert_eq!(text(&error, "param"), "fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_with_one_key_act_once() {
    let world = World::new().await;
    let fields: Fields<'_> = &[("name", "Once")];
    let requests = (0..16).map(|_| world.send("POST", "/v1/customers", fields, Some("same")));
    let mut ids = Vec::new();
    for reply in join_all(requests).await {
        ids.push(text(&reply.expect("a response").ok(), "id"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(customers(&world).await, 1);
}
