//! `/api/operator/organizations`

use uuid::Uuid;

use super::{Desk, problem};

#[tokio::test]
async fn organizations_are_listed_oldest_first() {
    let desk = Desk::open().await;
    let mut all = vec![desk.organization.to_string()];
    for customer in ["cus_2", "cus_3"] {
        all.push(desk.service.db.organization(customer).await.to_string());
    }
    assert_eq!(desk.ids("/organizations", "id").await, all);
    let (_, page) = desk.get("/organizations?limit=1").await;
    assert_eq!(page["data"][0]["stripeCustomerId"], "cus_1");
    assert_eq!(page["data"][0]["planTier"], "free");
    problem(400, "invalid_cursor")(desk.get("/organizations?cursor=x").await);
    let entered = desk.entries(Uuid::nil()).await;
    assert_eq!(entered, ["organizations_listed all"; 3]);
}
