//! Who gets a trial, as far as cards decide it: `[recovery] trial_card` and
//! `one_trial_per`.

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::cards::{is_usable, own_method};
use super::change::saga::Requester;
use super::command::ChangeRejection;
use super::failure::Failure;
use super::{StripeAction, Subscriptions, store};
use crate::catalogue::{TrialCard, TrialPer};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::objects::Customer;

/// The end of the trial of a subscription, and of one that a page makes.
const END: &str = "[end_behavior][missing_payment_method]";

fn has_trial(action: &StripeAction<'_>) -> bool {
    matches!(
        action,
        StripeAction::Create {
            trial_days: 1..,
            ..
        }
    )
}

impl Subscriptions {
    /// What Stripe is told to do when a trial of `days` ends without a card: a parameter
    /// below `prefix`, and its value.
    pub(super) fn trial_end(&self, prefix: &str, days: u16) -> (String, Option<&'static str>) {
        let end = self.catalogue.trial_end_without_card();
        let end = end.filter(|_| days > 0);
        let name = match prefix {
            "" => format!("trial_settings{END}"),
            _ => format!("{prefix}[trial_settings]{END}"),
        };
        (name, end.map(|end| end.as_str()))
    }

    /// Before a trial begins without a page. It ends without asking for a card: the only
    /// one becomes the default.
    pub(super) async fn begin_trial(
        &self,
        client: &Client,
        requester: &Requester,
        action: &StripeAction<'_>,
    ) -> Result<(), Failure> {
        if !has_trial(action) {
            return Ok(());
        }
        self.adopt_only_card(client, requester).await?;
        let per_card = self.catalogue.one_trial_per() == TrialPer::Card;
        if !per_card && self.catalogue.trial_card() != TrialCard::Required {
            return Ok(());
        }
        let organization_id = requester.organization_id;
        let card = self.card_to_charge(client, organization_id).await?;
        let card = card.ok_or(ChangeRejection::TrialNeedsCard)?;
        if per_card && !self.claim_trial(organization_id, &card).await? {
            return Err(ChangeRejection::CardHadTrial.into());
        }
        Ok(())
    }

    /// Before a page promises a trial, on which another card may be entered still.
    pub(super) async fn check_trial_on_page(
        &self,
        client: &Client,
        organization_id: Uuid,
        action: &StripeAction<'_>,
    ) -> Result<(), Failure> {
        if !has_trial(action) || self.catalogue.one_trial_per() != TrialPer::Card {
            return Ok(());
        }
        let card = self.card_to_charge(client, organization_id).await?;
        let Some(digest) = card.as_ref().and_then(digest) else {
            return Ok(());
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let claimed =
            store::trials::is_claimed_elsewhere(tx.conn(), &digest, organization_id).await?;
        tx.rollback().await?;
        match claimed {
            true => Err(ChangeRejection::CardHadTrial.into()),
            false => Ok(()),
        }
    }

    /// Whether the card by which a page has begun a trial had one elsewhere.
    pub(super) async fn had_trial_elsewhere(
        &self,
        client: &Client,
        organization_id: Uuid,
        bought: &Value,
    ) -> Result<bool, Failure> {
        let per_card = self.catalogue.one_trial_per() == TrialPer::Card;
        if !per_card || bought["status"] != "trialing" {
            return Ok(false);
        }
        let card = match own_method(bought) {
            Some(id) => match client.payment_method(&id).await {
                Ok(response) => Some(response.body),
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(error) => return Err(Failure::Stripe(error)),
            },
            None => self.card_to_charge(client, organization_id).await?,
        };
        match card {
            Some(card) => Ok(!self.claim_trial(organization_id, &card).await?),
            None => Ok(false),
        }
    }

    async fn claim_trial(&self, organization_id: Uuid, card: &Value) -> Result<bool, Failure> {
        // What has no number, such as a link to a bank, is one of its own.
        let Some(digest) = digest(card) else {
            return Ok(true);
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let claimed = store::trials::claim(tx.conn(), &digest, organization_id).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// The payment method that Stripe would charge now: the customer's default, or the only
    /// one.
    pub(super) async fn card_to_charge(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<Option<Value>, Failure> {
        let state = self.state(organization_id).await?;
        let Some(customer) = state.customer_id else {
            return Ok(None);
        };
        let shown = match client.customer_now(&customer).await {
            Ok(response) => Customer::read(&response.body, false)?,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Stripe(error)),
        };
        if shown.deleted {
            return Ok(None);
        }
        let attached = client.attached(&customer).await.map_err(Failure::Stripe)?;
        let now = Timestamp::now();
        let mut attached = attached.into_iter();
        Ok(match shown.default_payment_method_id {
            Some(default) => attached.find(|one| one["id"] == *default && is_usable(one, now)),
            None => match (attached.next(), attached.next()) {
                (Some(only), None) => Some(only).filter(|one| is_usable(one, now)),
                _ => None,
            },
        })
    }
}

/// A digest of what identifies the card or bank account in Stripe, whoever holds it.
fn digest(method: &Value) -> Option<[u8; 32]> {
    let kind = method["type"].as_str()?;
    let fingerprint = method[kind]["fingerprint"].as_str()?;
    Some(Sha256::digest(format!("{kind}:{fingerprint}")).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_is_the_same_whoever_holds_it() {
        let card = |id: &str, fingerprint: &str| json!({"id": id, "type": "card", "card": {"fingerprint": fingerprint}});
        assert_eq!(digest(&card("pm_1", "a")), digest(&card("pm_2", "a")));
        assert_ne!(digest(&card("pm_1", "a")), digest(&card("pm_1", "b")));
        assert_eq!(digest(&json!({"type": "link", "link": {}})), None);
    }
}
