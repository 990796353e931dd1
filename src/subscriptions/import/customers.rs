//! Customers become organizations', and subscriptions are mirrored.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::assign::{Account, Assigned};
use super::mirrored::Shown;
use super::scan::customer_of;
use super::{Work, store};
use crate::audit::{self, Actor, NewEntry};
use crate::catalogue::FREE_TIER;
use crate::db::{TenantTx, WorkerTx};
use crate::projection::ResponseKind;
use crate::stripe::client::{AccountList, ErrorKind, Page, Params, Response};
use crate::stripe::objects::Customer;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::{StripeSnapshot, snapshot};
use crate::subscriptions::reconcile::{compare, store as ours};
use crate::tenancy::auth;
use crate::tenancy::organizations::{self, Identity, NewOrganization};

/// The audit action for a customer that was told its organization.
pub const STAMPED: &str = "customer_stamped";
/// The key under which customers are told.
const OWNER_KEY: &str = "organization_id";
/// Characters of a name at most.
const LONGEST_NAME: usize = 200;
/// How many subscriptions are mirrored side by side.
const SIDE_BY_SIDE: usize = 4;

impl Work<'_> {
    pub(super) async fn customers(&mut self) -> Result<Option<String>, Failure> {
        let page = self.read(AccountList::Customers).await?;
        let (mut made, mut linked, mut stamped) = (0, 0, 0);
        let mut owned = Vec::new();
        for object in &page.objects {
            let Some(account) = Account::read(object) else {
                continue;
            };
            let Some(assigned) = self.assigned.get(&account.id) else {
                continue;
            };
            let organization = match self.own(&account, assigned).await {
                Ok(organization) => organization,
                Err(failure) => {
                    self.failed(&account.id, &account.id, failure)?;
                    continue;
                }
            };
            made += usize::from(matches!(assigned, Assigned::New { .. }));
            linked += usize::from(!matches!(assigned, Assigned::Linked(_)));
            let mut object = object.clone();
            if self.import.terms.stamp && account.named.is_empty() {
                match self.stamp(&account.id, organization).await {
                    Ok(answer) => {
                        object = answer;
                        stamped += 1;
                    }
                    Err(failure) => self.failed(&account.id, &account.id, failure)?,
                }
            }
            owned.push(object);
        }
        let written = self.mirror_customers(&page, owned).await?;
        let seen = page.objects.len();
        self.count("organizations", made, made);
        self.count("links", linked, linked);
        self.count("stamps", stamped, stamped);
        self.count("customers", seen, written);
        Ok(page.next)
    }

    /// A page of a list, from where the import is.
    pub(super) async fn read(&self, list: AccountList<'_>) -> Result<Page, Failure> {
        let after = self.import.cursor.as_deref();
        let asked_at = Timestamp::now();
        let page = match self.client.page(list, after).await {
            // The object that the last page ended with was deleted: from the beginning,
            // since what is here stays as it is.
            Err(error) if error.kind == ErrorKind::NotFound && after.is_some() => {
                self.client.page(list, None).await
            }
            page => page,
        };
        let page = page.map_err(Failure::Stripe)?;
        Ok(Page {
            at: page.at.or(Some(asked_at)),
            ..page
        })
    }

    /// Makes the customer the organization's.
    async fn own(&self, account: &Account, assigned: &Assigned) -> Result<Uuid, Failure> {
        let pool = &self.subscriptions.pool;
        let mut tx = WorkerTx::begin(pool).await?;
        let owner = store::owners(tx.conn(), Some(&[&account.id])).await?;
        tx.rollback().await?;
        // It was linked before the import died, or by an event meanwhile.
        if let Some(owner) = owner.get(&account.id) {
            return Ok(*owner);
        }
        match assigned {
            Assigned::Linked(id) | Assigned::ByFile(id) | Assigned::ByMetadata(id) => {
                organizations::link_customer(pool, *id, &account.id)
                    .await
                    .map_err(|error| match error {
                        organizations::LinkError::Database(error) => error.into(),
                        other => Failure::Unrecoverable(other.to_string()),
                    })?;
                Ok(*id)
            }
            Assigned::New { external_id } => {
                let new = NewOrganization {
                    name: name_of(account),
                    plan_tier: FREE_TIER.to_owned(),
                    stripe_customer_id: Some(account.id.clone()),
                };
                let email = account.email.clone();
                let identity = Identity {
                    external_id: external_id.clone(),
                    email: email.filter(|email| auth::is_address(email)),
                    ..Identity::default()
                };
                let catalogue = &self.subscriptions.catalogue;
                let made =
                    organizations::create_with_identity(pool, catalogue, new, identity).await;
                let made = made.map_err(|error| match error {
                    organizations::CreateError::Database(error) => error.into(),
                    other => Failure::Unrecoverable(other.to_string()),
                })?;
                Ok(made.id)
            }
        }
    }

    /// Tells the customer its organization, in its metadata; returns it as it is then.
    async fn stamp(&self, customer: &str, organization_id: Uuid) -> Result<Value, Failure> {
        let mut tx = TenantTx::begin(&self.subscriptions.pool, organization_id).await?;
        if audit::is_erased(tx.conn(), organization_id).await? {
            let erased = organizations::LinkError::Erased(organization_id);
            return Err(Failure::Unrecoverable(erased.to_string()));
        }
        drop(tx);
        let params = Params::new().set(
            format!("metadata[{OWNER_KEY}]"),
            organization_id.to_string(),
        );
        let key = format!("stamp-{}-{customer}-{organization_id}", self.import.id);
        let stamped = self.client.update_customer(customer, &params, &key).await;
        let stamped = stamped.map_err(Failure::Stripe)?;
        let mut tx = TenantTx::begin(&self.subscriptions.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let entry = NewEntry {
            organization_id,
            action: STAMPED,
            actor: Actor::System,
            resource_type: "customer",
            resource_id: customer.to_owned(),
            before: None,
            after: Some(json!({"metadata": {OWNER_KEY: organization_id}})),
            metadata: json!({"stripe_request_id": stamped.request_id}),
            client: None,
            reason: None,
        };
        audit::record(&mut tx, &locked, &[entry]).await?;
        tx.commit().await?;
        Ok(stamped.body)
    }

    async fn mirror_customers(&mut self, page: &Page, owned: Vec<Value>) -> Result<usize, Failure> {
        let ids: Vec<&str> = owned.iter().filter_map(|one| one["id"].as_str()).collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let unseen = store::unseen(tx.conn(), &ids).await?;
        let mirrored = ours::customers(tx.conn(), Some(&ids)).await?;
        tx.rollback().await?;
        let mut shown = Vec::new();
        for object in owned {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            let theirs = match Customer::read(&object, false) {
                Ok(theirs) => theirs,
                Err(error) => {
                    self.find_failed(&id, format!("{id}: {error}"));
                    continue;
                }
            };
            let same = |ours| compare::customers(ours, &theirs).is_empty();
            if unseen.contains(&id) || !mirrored.get(&id).is_some_and(same) {
                shown.push(Shown::of("customer.updated", object));
            }
        }
        self.apply(page.at, shown).await
    }

    pub(super) async fn subscriptions(&mut self) -> Result<Option<String>, Failure> {
        // A change that is made meanwhile has a later id.
        let asked = Uuid::now_v7();
        let page = self.read(AccountList::Subscriptions).await?;
        let owners = self.owners(&page.objects).await?;
        let ids: Vec<&str> = page
            .objects
            .iter()
            .filter_map(|one| one["id"].as_str())
            .collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mirrored = ours::subscriptions(tx.conn(), Some(&ids)).await?;
        tx.rollback().await?;
        let owned = page.objects.iter().filter_map(|object| {
            let customer = customer_of(object)?;
            Some((customer, *owners.get(customer)?, object))
        });
        let (at, this) = (page.at, self.subscriptions);
        let client = self.client;
        let mirroring = owned.map(|(customer, owner, object)| {
            let ours = object["id"].as_str().and_then(|id| mirrored.get(id));
            async move {
                let response = Response {
                    body: object.clone(),
                    request_id: None,
                    date: at,
                };
                let written = async {
                    let shown = snapshot(client, asked, response).await;
                    let shown = StripeSnapshot {
                        kind: ResponseKind::Question,
                        ..shown.map_err(Failure::Stripe)?
                    };
                    this.mirror_if_other(owner, shown, ours).await
                };
                (customer, object, written.await)
            }
        });
        let done: Vec<_> = futures_util::stream::iter(mirroring)
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        let mut written = 0;
        for (customer, object, mirrored) in done {
            match mirrored {
                Ok(other) => written += usize::from(other),
                Err(failure) => {
                    let id = object["id"].as_str().unwrap_or_default();
                    self.failed(customer, id, failure)?;
                }
            }
        }
        self.count("subscriptions", page.objects.len(), written);
        Ok(page.next)
    }

    /// The organizations of the objects' customers.
    pub(super) async fn owners(&self, objects: &[Value]) -> Result<HashMap<String, Uuid>, Failure> {
        let customers: Vec<&str> = objects.iter().filter_map(customer_of).collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let owners = store::owners(tx.conn(), Some(&customers)).await?;
        tx.rollback().await?;
        Ok(owners)
    }
}

impl Subscriptions {
    /// Mirrors a subscription that differs from what is mirrored; returns whether it did.
    async fn mirror_if_other(
        &self,
        organization_id: Uuid,
        shown: StripeSnapshot,
        ours: Option<&ours::Mirrored>,
    ) -> Result<bool, Failure> {
        let theirs = self.catalogue.subscription(&shown.object)?;
        let schedule = &shown.object["schedule"];
        let schedule = schedule.is_object().then_some(schedule);
        let schedule = schedule.map(crate::stripe::objects::SubscriptionSchedule::read);
        let schedule = schedule.transpose()?;
        let same = ours.is_some_and(|ours| {
            compare::subscriptions(ours, &theirs, schedule.as_ref()).is_empty()
        });
        if same {
            return Ok(false);
        }
        self.mirror_snapshot(organization_id, shown, None).await?;
        Ok(true)
    }
}

/// The name of the organization that is made of a customer.
fn name_of(account: &Account) -> String {
    let given = [account.name.as_deref(), account.email.as_deref()];
    let given = given.into_iter().flatten().map(|name| {
        let seen = name.chars().filter(|c| !c.is_control());
        let name: String = seen.take(LONGEST_NAME).collect();
        name.trim().to_owned()
    });
    let mut given = given.filter(|name| !name.is_empty());
    given.next().unwrap_or_else(|| account.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_is_called_what_its_customer_is() {
        let account = |name: Option<&str>, email: Option<&str>| Account {
            id: "cus_1".to_owned(),
            name: name.map(str::to_owned),
            email: email.map(str::to_owned),
            named: Vec::new(),
            claimed: Vec::new(),
        };
        let (acme, mail) = (Some(" Ac\u{1b}me\n"), Some("a@b.example"));
        assert_eq!(name_of(&account(acme, mail)), "Acme");
        assert_eq!(name_of(&account(Some(" "), mail)), "a@b.example");
        assert_eq!(name_of(&account(None, None)), "cus_1");
        let long = "ü".repeat(300);
        assert_eq!(name_of(&account(Some(&long), None)).chars().count(), 200);
    }
}
