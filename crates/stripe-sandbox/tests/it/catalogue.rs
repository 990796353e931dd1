//! Products, prices and lookup keys; lists and cursors.

use crate::support::{World, text};

#[tokio::test]
async fn a_lookup_key_moves_only_on_request() {
    let world = World::new().await;
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "100"),
        ("product_data[name]", "Plan"),
        ("lookup_key", "plan"),
    ];
    let first = world.post("/v1/prices", &fields).await.ok();
    let error = world.post("/v1/prices", &fields).await.error(400);
    assert_eq!(error["param"], "lookup_key");
    let mut moved = fields.to_vec();
    moved.push(("transfer_lookup_key", "true"));
    let second = world.post("/v1/prices", &moved).await.ok();
    let found = world
        .get("/v1/prices", &[("lookup_keys[]", "plan")])
        .await
        .ok();
    assert_eq!(found["data"][0]["id"], second["id"]);
    assert_eq!(found["data"].as_array().map(Vec::len), Some(1));
    let old = world
        .get(&format!("/v1/prices/{}", text(&first, "id")), &[])
        .await
        .ok();
    assert!(old["lookup_key"].is_null());
}

#[tokio::test]
async fn cursors_walk_a_list_in_both_directions() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let name = format!("Product {number}");
        ids.push(text(
            &world.post("/v1/products", &[("name", &name)]).await.ok(),
            "id",
        ));
    }
    ids.reverse();
    let page = |from: &'static str, id: String| {
        let world = &world;
        async move {
            let list = world
                .get("/v1/products", &[("limit", "3"), (from, &id)])
                .await
                .ok();
            let data: Vec<String> = list["data"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|product| text(product, "id"))
                .collect();
            (data, list["has_more"] == true)
        }
    };
    assert_eq!(
        page("starting_after", ids[0].clone()).await,
        (ids[1..4].to_vec(), true)
    );
    assert_eq!(
        page("starting_after", ids[3].clone()).await,
        (ids[4..7].to_vec(), false)
    );
    assert_eq!(
        page("ending_before", ids[6].clone()).await,
        (ids[3..6].to_vec(), true)
    );
    assert_eq!(
        page("ending_before", ids[2].clone()).await,
        (ids[0..2].to_vec(), false)
    );
}

#[tokio::test]
async fn the_same_seed_and_calls_give_the_same_ids() {
    let (one, two) = (World::new().await, World::new().await);
    for world in [&one, &two] {
        world.post("/v1/customers", &[("name", "A")]).await.ok();
        world.price(500).await;
    }
    assert_eq!(event_ids(&one).await, event_ids(&two).await);
}

async fn event_ids(world: &World) -> Vec<String> {
    let events = world.get("/v1/events", &[]).await.ok();
    let data = events["data"].as_array().expect("a list");
    data.iter().map(|event| text(event, "id")).collect()
}
