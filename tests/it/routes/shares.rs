//! Which share of what all use each route takes of.

use futures_util::StreamExt as _;
use futures_util::stream;
use reqwest::RequestBuilder;
use serde_json::json;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Share;
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;

/// Each is read a part after the other, by connections that all share, for as long as its
/// client reads.
#[test]
fn what_is_answered_as_csv_takes_of_the_exports() {
    let mut exports = 0;
    for route in api::table() {
        let wanted = if route.path.ends_with(".csv") {
            Share::Downloads
        } else if route.produces.iter().any(|kind| kind == "text/csv") {
            Share::Exports
        } else {
            continue;
        };
        assert_eq!(route.share, wanted, "{}", route.path);
        exports += 1;
    }
    assert!(exports >= 7, "{exports}");
}

/// Stripe takes so many calls of the whole account: an organization that asks for all of them
/// would have nobody else's changes made.
#[tokio::test]
async fn one_organizations_previews_are_not_all_that_stripe_is_asked_for() {
    let service = TestService::intake_only().await;
    let (one, other) = (
        service.organization("One").await,
        service.organization("Other").await,
    );
    // Of two of its users: limits of a credential are not those of an organization.
    let first = service.token(one, Role::Owner).await;
    let second = service.token(one, Role::Owner).await;
    let preview = |token: &str| -> RequestBuilder {
        let request = service.post("/api/billing/subscription/preview");
        let request = request.bearer_auth(token);
        request.json(&json!({"planTier": "nonsense"}))
    };
    let statuses = stream::iter(0..5_000)
        .map(|n| preview([&first, &second][n % 2]).send())
        .buffer_unordered(8)
        .map(|answer| answer.unwrap().status().as_u16());
    let refused = statuses.filter(|status| std::future::ready(*status == 429));
    assert_eq!(std::pin::pin!(refused).next().await, Some(429));
    let refused = preview(&first).send().await.unwrap();
    assert!(refused.headers().contains_key("retry-after"));
    let token = service.token(other, Role::Owner).await;
    let answer = preview(&token).send().await.unwrap();
    assert_ne!(answer.status(), 429);
    // What Stripe is not asked for goes on.
    let read = service.get("/api/billing/usage").bearer_auth(&first);
    assert_eq!(read.send().await.unwrap().status(), 200);
}
