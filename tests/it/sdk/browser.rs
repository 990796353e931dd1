//! The hooks and components in a real browser, before a back end that passes their requests on.

use serde_json::json;
use valuecanvas_billing::tenancy::auth::Permission;

use super::calls::world;
use super::package::asked;
use crate::subscriptions::world::VISA;

#[tokio::test]
async fn a_page_shows_usage_and_grace_and_changes_the_plan() {
    let world = world().await;
    world.customer(VISA).await;
    let key = world.service.service_key(&Permission::OF_SERVICE).await;
    let said = asked(
        "sdk_browser",
        json!({
            "base": world.service.base,
            "key": key,
            "organization": world.organization.to_string(),
        }),
    )
    .await;
    assert_eq!(said["faults"], json!([]), "{said:#}");
    assert_eq!(
        said["seen"],
        json!([
            "free",
            "900 of 1,000 used",
            "The quota of 1,000 API calls is used up.",
            "$99.00",
            "standard",
            "1,001 of 100,000 used",
            "no banner",
            "enterprise",
            "refused",
            "unauthenticated",
        ])
    );
}
