//! Puts a subscription into flexible billing before a change that Stripe takes only there:
//! the fee by the year beside usage by the month. Nothing is charged by it, and there is no
//! way back; a change that is then declined leaves it so.

use super::record::ChangeRecord;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::stripe::requests::Request;

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
