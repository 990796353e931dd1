use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;
use valuecanvas_billing::db::{TenantTx, WorkerTx};
use valuecanvas_billing::stripe::client::Params;
use valuecanvas_billing::stripe::requests::{self, Begun, NewRequest, Subject, Which};

use crate::support::TestDatabase;

fn new_customer() -> NewRequest {
    NewRequest {
        subject: Subject::Customer,
        operation: "create",
        target_id: None,
        params: Params::new().set("name", "Ada"),
        context: json!({"planTier": "standard"}),
    }
}

async fn open_ones(db: &TestDatabase) -> Vec<Uuid> {
    let mut tx = WorkerTx::begin(&db.service_pool()).await.unwrap();
    let open = requests::find(tx.conn(), Which::Open, SignedDuration::ZERO, 100)
        .await
        .unwrap();
    open.into_iter()
        .map(|request| request.unwrap().id)
        .collect()
}

#[tokio::test]
async fn of_many_at_once_one_request_begins() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    let begins = (0..20).map(|_| requests::begin(&pool, organization, new_customer()));
    let begun = futures_util::future::join_all(begins).await;
    let (mut new, mut keys) = (0, std::collections::BTreeSet::new());
    for begun in begun {
        let (Begun::New(request) | Begun::Open(request)) = begun.as_ref().unwrap();
        new += usize::from(matches!(begun, Ok(Begun::New(_))));
        keys.insert(request.key());
        assert_eq!(request.params, new_customer().params);
        assert_eq!(request.context["planTier"], "standard");
    }
    assert_eq!((new, keys.len()), (1, 1));
    assert_eq!(open_ones(&db).await.len(), 1);
}

#[tokio::test]
async fn a_request_is_closed_once_and_makes_room_for_the_next() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    let Begun::New(first) = requests::begin(&pool, organization, new_customer())
        .await
        .unwrap()
    else {
        panic!("nothing is open");
    };
    let mut tx = TenantTx::begin(&pool, organization).await.unwrap();
    assert_eq!(
        requests::lock(tx.conn(), &first).await.unwrap(),
        requests::State::Open
    );
    requests::succeeded(tx.conn(), &first, "cus_1")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = TenantTx::begin(&pool, organization).await.unwrap();
    assert_ne!(
        requests::lock(tx.conn(), &first).await.unwrap(),
        requests::State::Open
    );
    drop(tx);
    assert!(open_ones(&db).await.is_empty());
    let second = requests::begin(&pool, organization, new_customer())
        .await
        .unwrap();
    let Begun::New(second) = second else {
        panic!("the first is closed");
    };
    assert_ne!(first.key(), second.key());
    let later = second.created_at + SignedDuration::from_hours(23);
    assert!(second.key_is_valid(second.created_at) && !second.key_is_valid(later));
}
