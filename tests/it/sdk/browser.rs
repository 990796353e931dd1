//! The hooks and components in a real browser: before a back end that passes their requests on,
//! and with a user's own token.

use serde_json::json;
use valuecanvas_billing::tenancy::auth::Permission;

use super::calls::world;
use super::package::asked;
use crate::subscriptions::world::VISA;
use crate::support::ports::reserved;

#[tokio::test]
async fn a_page_shows_usage_and_grace_and_changes_the_plan() {
    // Where the pages will be: the service is told before they are served.
    let pages = reserved();
    let world = world(&format!("http://{pages}")).await;
    world.customer(VISA).await;
    let key = world.service.service_key(&Permission::OF_SERVICE).await;
    let said = asked(
        "sdk_browser",
        json!({
            "base": world.service.base,
            "key": key,
            "port": pages.port(),
            "token": world.token,
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
            "0 of 100,000 used",
            "no banner",
            "enterprise",
            "enterprise",
            "$0.00",
            "refused",
            "unauthenticated",
        ])
    );
}
