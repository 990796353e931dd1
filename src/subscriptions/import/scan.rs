//! Reads the account and says what an import comes to. Changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use uuid::Uuid;

use super::assign::{Account, Assigned, Known, assign, named_in};
use super::map::CustomerMap;
use super::progress::Terms;
use super::report::{Customers, Finding, ImportReport, Reason};
use super::store;
use crate::db::WorkerTx;
use crate::stripe::client::{AccountList, Client, ErrorKind, Page};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::reconcile::{runs, unknown_prices};
use crate::tenancy::names::find_names;

/// How many names are looked up at once.
const LOOKUP: usize = 1_000;
/// Of how many customers that Stripe does not list it is asked why.
const ASKED: usize = 1_000;

/// What the account has, and what becomes of it.
pub struct Scanned {
    pub assigned: HashMap<String, Assigned>,
    pub report: ImportReport,
}

impl Subscriptions {
    /// Reads customers and subscriptions. `heard` is told how many objects were read.
    pub(super) async fn scan(
        &self,
        client: &Client,
        map: &CustomerMap,
        terms: &Terms,
        heard: &(dyn Fn(&'static str, u64) + Sync),
    ) -> Result<Scanned, Failure> {
        let mut accounts = Vec::new();
        let mut live = false;
        each_page(client, AccountList::Customers, async |page| {
            live |= page.objects.iter().any(|one| one["livemode"] == true);
            accounts.extend(page.objects.iter().filter_map(Account::read));
            heard("customers", accounts.len() as u64);
            Ok(())
        })
        .await?;
        let mut findings = unlisted(client, map, &mut accounts).await?;
        claimed(client, &mut accounts).await?;
        let known = self.known(&accounts, map).await?;
        let (assigned, refused) = assign(&accounts, &known, map, terms.create_organizations);
        findings.extend(refused);
        // Only test mode has test clocks.
        if !live {
            findings.extend(on_clocks(client, &known).await?);
        }
        let mut report = ImportReport {
            customers: counted(accounts.len(), &assigned),
            ..ImportReport::default()
        };
        drop(accounts);
        self.scan_subscriptions(client, &assigned, &mut report, &mut findings, heard)
            .await?;
        findings.extend(self.metered_before(&assigned).await?);
        findings.sort_by(|a, b| {
            (a.reason, &a.customer, &a.subscription).cmp(&(b.reason, &b.customer, &b.subscription))
        });
        report.findings = findings;
        Ok(Scanned { assigned, report })
    }

    /// What is here of what the customers name.
    async fn known(&self, accounts: &[Account], map: &CustomerMap) -> Result<Known, Failure> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mut known = Known {
            linked: store::owners(tx.conn(), None).await?,
            taken: store::taken(tx.conn()).await?,
            ..Known::default()
        };
        for chunk in accounts.chunks(LOOKUP) {
            let ids: BTreeSet<Uuid> = chunk.iter().flat_map(Account::organizations).collect();
            let names: BTreeSet<&str> = chunk.iter().flat_map(Account::names).collect();
            let (names, ids) = (Vec::from_iter(names), Vec::from_iter(ids));
            let found = find_names(tx.conn(), &names, &ids).await?;
            known.add(found);
        }
        let named: BTreeSet<Uuid> = map.customers().map(|(_, id)| id).collect();
        for ids in Vec::from_iter(named).chunks(LOOKUP) {
            known.add(find_names(tx.conn(), &[], ids).await?);
        }
        tx.rollback().await?;
        Ok(known)
    }

    async fn scan_subscriptions(
        &self,
        client: &Client,
        assigned: &HashMap<String, Assigned>,
        report: &mut ImportReport,
        findings: &mut Vec<Finding>,
        heard: &(dyn Fn(&'static str, u64) + Sync),
    ) -> Result<(), Failure> {
        let mut running = BTreeMap::<String, Vec<(String, String)>>::new();
        let mut read = 0;
        each_page(client, AccountList::Subscriptions, async |mut page| {
            read += page.objects.len() as u64;
            page.objects.retain(|object| {
                let customer = customer_of(object);
                customer.is_some_and(|customer| assigned.contains_key(customer))
            });
            self.recall(&page.objects).await?;
            for object in &page.objects {
                let Some(customer) = customer_of(object) else {
                    continue;
                };
                let status = object["status"].as_str().unwrap_or("none").to_owned();
                *report.subscriptions.entry(status).or_default() += 1;
                let runs = self.describe(customer, object, findings);
                if let (Some(id), Some(assigned)) = (runs, assigned.get(customer)) {
                    let organization = assigned.key(customer);
                    let of = running.entry(organization).or_default();
                    of.push((customer.to_owned(), id));
                }
            }
            heard("subscriptions", read);
            Ok(())
        })
        .await?;
        findings.extend(running.into_values().filter(|of| of.len() > 1).map(|of| {
            let ids: Vec<&str> = of.iter().map(|(_, id)| id.as_str()).collect();
            let (customer, id) = &of[0];
            let detail = format!("the organization pays for {}", ids.join(", "));
            Finding::of(Reason::TwoSubscriptions, customer, detail).subscription(id)
        }));
        Ok(())
    }

    /// The organizations that are given a customer, and have used something before.
    async fn metered_before(
        &self,
        assigned: &HashMap<String, Assigned>,
    ) -> Result<Vec<Finding>, Failure> {
        let given = assigned.iter().filter_map(|(customer, one)| match one {
            Assigned::ByFile(id) | Assigned::ByMetadata(id) => Some((*id, customer)),
            Assigned::Linked(_) | Assigned::New { .. } => None,
        });
        let given: BTreeMap<Uuid, &String> = given.collect();
        let ids: Vec<Uuid> = given.keys().copied().collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let metered = store::metered(tx.conn(), &ids).await?;
        tx.rollback().await?;
        let findings = metered.into_iter().filter_map(|id| {
            let detail = "usage was counted here before it had a customer";
            let customer = *given.get(&id)?;
            Some(Finding::of(Reason::UsageBefore, customer, detail).organization(id))
        });
        Ok(findings.collect())
    }

    async fn recall(&self, objects: &[Value]) -> Result<(), Failure> {
        let read = objects.iter();
        let read = read.filter_map(|object| self.catalogue.subscription(object).ok());
        let read: Vec<_> = read.collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.recall(tx.conn(), &read).await?;
        tx.rollback().await?;
        Ok(())
    }

    /// What to know of a subscription; its id, if it is or will be charged.
    fn describe(
        &self,
        customer: &str,
        object: &Value,
        findings: &mut Vec<Finding>,
    ) -> Option<String> {
        let mut find = |reason, id: &str, detail: String| {
            findings.push(Finding::of(reason, customer, detail).subscription(id));
        };
        let theirs = match self.catalogue.subscription(object) {
            Ok(theirs) => theirs,
            Err(error) => {
                let id = object["id"].as_str().unwrap_or_default();
                find(Reason::Failed, id, format!("cannot be read: {error}"));
                return None;
            }
        };
        if !runs(&theirs) {
            return None;
        }
        if theirs.collection_method.as_deref() == Some("send_invoice") {
            let detail = "its invoices are sent".to_owned();
            find(Reason::SendInvoice, &theirs.id, detail);
        }
        if let Some(schedule) = &theirs.schedule_id {
            find(
                Reason::Schedule,
                &theirs.id,
                format!("{schedule} changes it"),
            );
        }
        if self.catalogue.plan_of(&theirs).is_none() {
            let prices = unknown_prices(&self.catalogue, &theirs);
            let detail = format!("not in the catalogue: {}", prices.join(", "));
            find(Reason::UnknownPrice, &theirs.id, detail);
        }
        Some(theirs.id)
    }
}

impl Assigned {
    /// The same for customers of the same organization.
    fn key(&self, customer: &str) -> String {
        match self {
            Self::Linked(id) | Self::ByFile(id) | Self::ByMetadata(id) => id.to_string(),
            Self::New { .. } => customer.to_owned(),
        }
    }
}

/// The customer of an object, which may be expanded.
pub fn customer_of(object: &Value) -> Option<&str> {
    let customer = &object["customer"];
    customer.as_str().or_else(|| customer["id"].as_str())
}

/// Reads a list to its end.
async fn each_page(
    client: &Client,
    list: AccountList<'_>,
    mut read: impl AsyncFnMut(Page) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    let mut before = Vec::new();
    loop {
        let page = match client.page(list, after.as_deref()).await {
            // It was deleted meanwhile: what comes after it, comes after the one before it.
            Err(error) if error.kind == ErrorKind::NotFound && !before.is_empty() => {
                after = before.pop();
                continue;
            }
            page => page.map_err(Failure::Stripe)?,
        };
        after.clone_from(&page.next);
        let ids = page.objects.iter().filter_map(|one| one["id"].as_str());
        before = ids.map(str::to_owned).collect();
        before.pop();
        read(page).await?;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Reads what the metadata of subscriptions call the organizations of their customers.
async fn claimed(client: &Client, accounts: &mut [Account]) -> Result<(), Failure> {
    let mut claims = HashMap::<String, BTreeSet<Vec<String>>>::new();
    each_page(client, AccountList::Subscriptions, async |page| {
        for object in &page.objects {
            let named = named_in(object);
            if let Some(customer) = customer_of(object).filter(|_| !named.is_empty()) {
                claims.entry(customer.to_owned()).or_default().insert(named);
            }
        }
        Ok(())
    })
    .await?;
    for account in accounts {
        let of_account = claims.remove(&account.id).unwrap_or_default();
        account.claimed = of_account.into_iter().collect();
    }
    Ok(())
}

/// Those that the map names and Stripe does not list: deleted ones, and those that were
/// made meanwhile.
async fn unlisted(
    client: &Client,
    map: &CustomerMap,
    accounts: &mut Vec<Account>,
) -> Result<Vec<Finding>, Failure> {
    let listed: BTreeSet<&str> = accounts.iter().map(|one| one.id.as_str()).collect();
    let named = map.customers().filter(|(id, _)| !listed.contains(id));
    let mut named: Vec<(&str, Uuid)> = named.collect();
    named.sort_unstable();
    let mut findings = Vec::new();
    let mut made = Vec::new();
    for (at, (id, organization)) in named.into_iter().enumerate() {
        let missing =
            |reason, detail: &str| Some(Finding::of(reason, id, detail).organization(organization));
        let finding = if at >= ASKED {
            missing(Reason::MissingCustomer, "Stripe does not list it")
        } else {
            match client.customer_now(id).await {
                Ok(response) if response.body["deleted"] == true => {
                    missing(Reason::DeletedCustomer, "it was deleted in Stripe")
                }
                // It is found with its clock.
                Ok(response) if response.body["test_clock"].is_string() => None,
                Ok(response) => {
                    made.extend(Account::read(&response.body));
                    None
                }
                Err(error) if error.kind == ErrorKind::NotFound => {
                    missing(Reason::MissingCustomer, "Stripe has no such customer")
                }
                Err(error) => return Err(Failure::Stripe(error)),
            }
        };
        findings.extend(finding);
    }
    accounts.extend(made);
    Ok(findings)
}

/// The customers on test clocks that are no organization's.
async fn on_clocks(client: &Client, known: &Known) -> Result<Vec<Finding>, Failure> {
    let mut clocks = Vec::new();
    each_page(client, AccountList::TestClocks, async |page| {
        let ids = page.objects.iter().filter_map(|one| one["id"].as_str());
        clocks.extend(ids.map(str::to_owned));
        Ok(())
    })
    .await?;
    let mut findings = Vec::new();
    for clock in &clocks {
        each_page(client, AccountList::CustomersOnClock(clock), async |page| {
            let ids = page.objects.iter().filter_map(|one| one["id"].as_str());
            let new = ids.filter(|id| !known.linked.contains_key(*id));
            let detail = format!("it lives on {clock}");
            findings.extend(new.map(|id| Finding::of(Reason::TestClock, id, detail.clone())));
            Ok(())
        })
        .await?;
    }
    Ok(findings)
}

fn counted(found: usize, assigned: &HashMap<String, Assigned>) -> Customers {
    let mut customers = Customers {
        found,
        not_imported: found - assigned.len(),
        ..Customers::default()
    };
    for assigned in assigned.values() {
        match assigned {
            Assigned::Linked(_) => customers.linked += 1,
            Assigned::ByFile(_) => customers.by_file += 1,
            Assigned::ByMetadata(_) => customers.by_metadata += 1,
            Assigned::New { .. } => customers.new += 1,
        }
    }
    customers
}
