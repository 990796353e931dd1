//! What is done with payment methods, whoever asks: the API, or the customer pages.

use uuid::Uuid;

use super::routes::run;
use super::store::Payer;
use super::{PaymentMethod, PaymentMethods, store};
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::subscriptions::{CardFailure, Requester, SetupStarted};
use crate::tenancy::auth::Principal;

impl PaymentMethods {
    /// A page of what is attached, newest first.
    pub async fn page(
        &self,
        organization: Uuid,
        paging: &Paging,
    ) -> Result<Page<PaymentMethod>, Problem> {
        let page = self.shared.page(organization, "payment-methods", paging);
        let page = page.await?;
        let payer = self.payer(organization).await?;
        let mut tx = self.shared.read(organization).await?;
        let rows = store::list(&mut tx, &payer, page.after.as_ref(), page.rows()).await?;
        Ok(page.of(rows))
    }

    /// One that is attached.
    pub async fn one(&self, organization: Uuid, id: &str) -> Result<PaymentMethod, Problem> {
        let payer = self.payer(organization).await?;
        let mut tx = self.shared.read(organization).await?;
        let found = store::one(&mut tx, &payer, id).await?;
        found.ok_or_else(|| Problem::not_found(CardFailure::NotFound.to_string()))
    }

    /// The one that invoices are charged to, if it is attached.
    pub async fn charged(&self, organization: Uuid) -> Result<Option<PaymentMethod>, Problem> {
        let payer = self.payer(organization).await?;
        let mut tx = self.shared.read(organization).await?;
        match store::charged(&mut tx, &payer).await? {
            Some(id) => Ok(store::one(&mut tx, &payer, &id).await?),
            None => Ok(None),
        }
    }

    /// Who is charged: the subscription that counts and its customer, or the customer who
    /// would be.
    async fn payer(&self, organization: Uuid) -> Result<Payer, Problem> {
        let state = self.subscriptions.state(organization).await?;
        let subscription = state.subscription;
        let held = subscription.as_ref().map(|held| held.customer_id.clone());
        Ok(Payer {
            customer_id: held.or(state.customer_id),
            subscription_id: subscription.map(|held| held.id),
        })
    }

    /// Has invoices charged to it from now on.
    pub async fn make_default(&self, caller: Principal, id: &str) -> Result<(), Problem> {
        let requester = Requester::of(caller, None);
        let (subscriptions, id) = (self.subscriptions.clone(), id.to_owned());
        run(async move { subscriptions.make_default(&requester, &id).await }).await
    }

    /// Removes it for good.
    pub async fn remove(&self, caller: Principal, id: String) -> Result<(), Problem> {
        let requester = Requester::of(caller, None);
        let subscriptions = self.subscriptions.clone();
        run(async move { subscriptions.remove_card(&requester, &id).await }).await
    }

    /// Stripe's page on which another one is saved, which leads back to an address of ours.
    pub async fn setup_page(
        &self,
        caller: Principal,
        return_url: String,
    ) -> Result<SetupStarted, Problem> {
        let requester = Requester::of(caller, None);
        let subscriptions = self.subscriptions.clone();
        run(async move { subscriptions.setup_page(&requester, &return_url).await }).await
    }
}
