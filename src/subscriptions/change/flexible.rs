//! Puts a subscription into flexible billing before a change that Stripe takes only there:
//! the fee by the year beside usage by the month. Nothing is charged by it, and there is no
//! way back; a change that is then declined leaves it so.

use super::record::ChangeRecord;
use super::saga::Round;
use super::schedule;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::stripe::requests::Request;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

impl Subscriptions {
    /// Stripe previews a subscription as it is, and flexible billing credits discounted time
    /// otherwise than classic billing. So a change that was quoted is decided and priced
    /// again once its subscription is in flexible billing.
    pub(super) async fn make_flexible_first(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
    ) -> Result<Round, Failure> {
        let ready = async {
            schedule::release_first(client, request, change).await?;
            make_flexible(client, request, change).await
        };
        let ready = ready.await;
        let why = match &ready {
            Ok(()) => "it is priced again in flexible billing".to_owned(),
            Err(error) => error.to_string(),
        };
        self.close_failed(request, &why).await?;
        self.refresh_from_stripe(client, request.organization_id)
            .await?;
        ready.map(|()| Round::Again).map_err(Failure::Stripe)
    }
}

pub async fn make_flexible(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<(), StripeError> {
    let Some(id) = request.target_id.as_deref().filter(|_| change.flexible) else {
        return Ok(());
    };
    let key = request.key_of("flexible");
    match client.migrate_subscription(id, &key).await {
        Ok(_) => Ok(()),
        // Somebody may have done it already.
        Err(error) if error.kind == ErrorKind::InvalidRequest => {
            let found = client.subscription(id).await?;
            match found.body["billing_mode"]["type"].as_str() {
                Some("flexible") => Ok(()),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}
