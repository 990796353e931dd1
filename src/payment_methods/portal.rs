//! The configuration of Stripe's customer portal. Ours offers nothing that this
//! service must know first: no other plan, no other quantity, no cancellation. It is
//! made once for an account, and found again by its metadata.

use serde_json::Value;

use crate::stripe::client::{Client, Params, StripeError};
use crate::subscriptions::Failure;

const MARK: &str = "valuecanvas_billing";
/// Changes whenever the features of [`parameters`] do, so that they are set anew.
const VERSION: &str = "portal-1";

/// Our configuration, which each session looks for: what somebody has changed of it in
/// the dashboard is set right.
#[derive(Debug, Clone)]
pub struct Portal {
    return_url: Option<String>,
}

/// What the portal lets customers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortalOffer {
    /// The first customer who asks for it makes the configuration.
    NotMade,
    AsWeSet,
    /// Somebody has changed it in Stripe's dashboard: it offers to change plans or to
    /// cancel.
    TooMuch,
}

impl Portal {
    pub fn new(return_url: Option<&str>) -> Self {
        Self {
            return_url: return_url.map(str::to_owned),
        }
    }

    /// The id of our configuration, which is made or set right if need be.
    pub async fn configuration(&self, client: &Client) -> Result<String, Failure> {
        let params = self.parameters();
        let made = match find(client).await.map_err(Failure::Stripe)? {
            Some(one) if is_as_we_set(&one) => one,
            Some(one) => {
                let id = one["id"].as_str().unwrap_or_default();
                // A change of today's must not be answered as one of yesterday's was.
                let key = uuid::Uuid::now_v7().to_string();
                let params = params.set("active", true);
                let set = client.update_portal_configuration(id, &params, &key).await;
                set.map_err(Failure::Stripe)?.body
            }
            None => {
                // Replicas that begin at once make one.
                let key = format!("{MARK}-{VERSION}-{}", fingerprint(&params));
                let made = client.create_portal_configuration(&params, &key).await;
                made.map_err(Failure::Stripe)?.body
            }
        };
        let id = made["id"].as_str().map(str::to_owned);
        id.ok_or(Failure::Unexpected("a portal configuration has no id"))
    }

    fn parameters(&self) -> Params {
        let updates = ["address", "email", "name", "phone", "tax_id"];
        let params = Params::new()
            .set("features[customer_update][enabled]", true)
            .set("features[invoice_history][enabled]", true)
            .set("features[payment_method_update][enabled]", true)
            .set("features[subscription_cancel][enabled]", false)
            .set("features[subscription_update][enabled]", false)
            .set(format!("metadata[{MARK}]"), VERSION)
            .set_if("default_return_url", self.return_url.as_deref());
        let updates = updates.iter().enumerate();
        updates.fold(params, |params, (n, update)| {
            let name = format!("features[customer_update][allowed_updates][{n}]");
            params.set(name, update)
        })
    }
}

fn fingerprint(params: &Params) -> String {
    use sha2::{Digest as _, Sha256};
    let pairs = params.iter().map(|(name, value)| format!("{name}={value}"));
    let text: Vec<String> = pairs.collect();
    hex::encode(&Sha256::digest(text.join("&"))[..8])
}

async fn find(client: &Client) -> Result<Option<Value>, StripeError> {
    let all = client.portal_configurations().await?;
    let ours = all
        .into_iter()
        .filter(|one| one["metadata"][MARK].is_string());
    // The oldest, so that all replicas agree.
    Ok(ours.min_by_key(|one| (one["created"].as_i64(), one["id"].to_string())))
}

fn is_as_we_set(configuration: &Value) -> bool {
    let offers = |feature: &str| configuration["features"][feature]["enabled"] != false;
    let is_ours = configuration["metadata"][MARK] == VERSION;
    is_ours
        && configuration["active"] != false
        && !offers("subscription_cancel")
        && !offers("subscription_update")
}

/// What our configuration offers, as `doctor` looks at it.
pub async fn inspect(client: &Client) -> Result<PortalOffer, StripeError> {
    Ok(match find(client).await? {
        None => PortalOffer::NotMade,
        // The next customer who asks for it has it made active again.
        Some(one) if one["active"] == false => PortalOffer::NotMade,
        Some(one) if is_as_we_set(&one) => PortalOffer::AsWeSet,
        Some(_) => PortalOffer::TooMuch,
    })
}
