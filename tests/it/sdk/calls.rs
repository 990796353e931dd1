//! A product that does everything with the package alone: sign-up, checkout, usage, holds, with
//! connections that break; and what the service has counted in the end.

use std::collections::BTreeMap;

use reqwest::Url;
use serde_json::json;
use valuecanvas_billing::config::{
    AddressConfig, AllowedAddresses, OutboundConfig, SurfaceConfig,
};
use valuecanvas_billing::tenancy::auth::Permission;

use super::package::asked;
use crate::subscriptions::world::{Stripe, World};
use crate::support::service::Options;

pub const PRODUCT: &str = "https://app.example.com";

/// The service, the stand-in for Stripe, and a product that is at [`PRODUCT`].
pub async fn world() -> World {
    let options = Options {
        surface: SurfaceConfig {
            addresses: AddressConfig {
                application: Some(Url::parse(PRODUCT).unwrap()),
                return_origins: vec![Url::parse(PRODUCT).unwrap()],
                public: None,
            },
            ..SurfaceConfig::default()
        },
        outbound: OutboundConfig {
            allowed: AllowedAddresses {
                loopback: true,
                ..AllowedAddresses::default()
            },
            ..OutboundConfig::default()
        },
        ..Options::default()
    };
    World::with(Stripe::start().await, options).await
}

#[tokio::test]
async fn a_product_lives_on_the_package_alone() {
    let world = world().await;
    let key = world.service.service_key(&Permission::OF_SERVICE).await;
    let own = world
        .service
        .api_key(world.organization, &Permission::ALL)
        .await;
    let said = asked(
        "sdk",
        json!({
            "base": world.service.base, "key": key, "own": own, "product": PRODUCT,
        }),
    )
    .await;
    assert_eq!(
        said,
        json!({
            "made": ["acme", "acme"],
            "atFirst": ["free", null],
            "tiers": ["enterprise", "free", "standard"],
            "completed": [false, true, "standard", "active"],
            "heard": "standard",
            "after": "standard",
            "changed": [false, "enterprise"],
            "again": "same_plan",
            "features": true,
            "checked": [true, 3, "service"],
            "refused": [["nonsense", "unknown_metric"]],
            "told": {"tracked": 4, "sent": 3, "duplicates": 0, "refused": 1, "dropped": 0, "allowedUnavailable": 0},
            "held": [true, "confirmed", 2],
            "takenBack": 5,
            "brokenCheck": [true, false, "service"],
            "brokenBatch": {"sent": 0, "duplicates": 1},
            "down": [false, true, "unavailable", 1],
            "toldLater": 0,
            "countedBefore": {"duplicates": 1, "lost": []},
            "confirmedBefore": ["told_later", 0, []],
            "selected": "organization_not_selectable",
            "own": "Northwind",
            "ended": "free",
            "usage": {"agent_executions": 14, "api_calls": 10, "llm_tokens": 7},
        }),
        "{said:#}"
    );
}

/// What a currency's amounts are counted in is the same here and in the package.
#[tokio::test]
async fn amounts_are_written_as_they_are_counted() {
    let currencies = [
        "usd", "eur", "jpy", "krw", "bhd", "kwd", "isk", "ugx", "huf", "twd", "clp", "tnd", "vnd",
    ];
    let counted: BTreeMap<&str, u32> = currencies
        .into_iter()
        .map(|currency| (currency, billing_domain::money::decimals(currency)))
        .collect();
    let said = asked("sdk_money", json!({"currencies": currencies})).await;
    assert_eq!(said, json!(counted));
}
