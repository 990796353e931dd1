//! Lists and searches of organizations.

use serde_json::json;

use crate::support::product::{ORGANIZATIONS, Product};
use crate::support::{TestDatabase, TestService};

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
