//! What is done with payment methods, whoever asks: the API, or the customer pages.

use uuid::Uuid;

use super::routes::run;
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
        let mut tx = self.shared.read(organization).await?;
        let rows = store::list(&mut tx, page.after.as_ref(), page.rows()).await?;
        Ok(page.of(rows))
    }

    /// One that is attached.
    pub async fn one(&self, organization: Uuid, id: &str) -> Result<PaymentMethod, Problem> {
        let mut tx = self.shared.read(organization).await?;
        let found = store::one(&mut tx, id).await?;
        found.ok_or_else(|| Problem::not_found(CardFailure::NotFound.to_string()))
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
