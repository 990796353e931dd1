//! Brings the customers of a Stripe account here that was there before: who is which
//! organization, and what Stripe has of them.
//!
//! The account is read whole first and told, so that nothing is guessed. Then each kind of
//! object is gone through, a page at a time; how far that is, is entered after each page,
//! and a run that died is gone on with. What differs from what is mirrored is mirrored as
//! `reconcile` heals it, as Stripe's answer at the time of its page: whatever event is newer
//! stands. Stripe is changed by stamps only.

mod assign;
mod customers;
mod documents;
mod map;
mod mirrored;
mod progress;
mod report;
mod scan;
mod store;

use jiff::Timestamp;
use uuid::Uuid;

use super::Subscriptions;
use super::change::recover::stops_round;
use super::failure::Failure;
use crate::audit;
use crate::db::WorkerTx;
use crate::stripe::client::{AccountList, Client};
pub use customers::STAMPED;
pub use map::{CustomerMap, MapError};
pub use progress::{Phase, Source, Terms};
pub use report::{Count, Counts, Customers, Finding, ImportReport, Reason};
use scan::Scanned;
pub use store::Import;

/// Under what failures are counted.
const FAILED: &str = "failures";

/// How it begins.
#[derive(Debug, Clone)]
pub enum Beginning {
    /// Anew, by these terms.
    New(Terms),
    /// Where the last one was interrupted.
    Resumed(Import),
}

/// Hears how many objects of a kind were gone through.
pub type Heard<'a> = &'a (dyn Fn(&'static str, u64) + Sync);

impl Subscriptions {
    /// What an import would come to.
    pub async fn rehearse_import(
        &self,
        map: &CustomerMap,
        terms: &Terms,
        heard: Heard<'_>,
    ) -> Result<ImportReport, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let scanned = self.scan(client, map, terms, heard).await?;
        Ok(ImportReport {
            dry_run: true,
            complete: true,
            source: terms.source.clone(),
            ..scanned.report
        })
    }

    /// The account that would be imported, and whether something of the other mode is here.
    pub async fn import_source(&self, livemode: bool) -> Result<(Source, bool), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let account = match client.account().await {
            Ok(response) => response.body["id"].as_str().map(str::to_owned),
            Err(error) if error.is_outage() => return Err(Failure::Stripe(error)),
            // A restricted key may not read it.
            Err(_) => None,
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let other = store::has_other_mode(tx.conn(), livemode).await?;
        tx.rollback().await?;
        Ok((Source { account, livemode }, other))
    }

    /// The import that was interrupted, if there is one.
    pub async fn unfinished_import(&self) -> Result<Option<Import>, Failure> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        Ok(store::unfinished(tx.conn()).await?)
    }

    /// Imports. Whatever ends it early, what was done until then is returned.
    pub async fn import(
        &self,
        map: &CustomerMap,
        beginning: Beginning,
        heard: Heard<'_>,
    ) -> (ImportReport, Result<(), Failure>) {
        let mut report = ImportReport::default();
        let importing = self.import_all(map, beginning, heard, &mut report);
        let ended = audit::history(importing).await;
        report.complete = ended.is_ok();
        (report, ended)
    }

    async fn import_all(
        &self,
        map: &CustomerMap,
        beginning: Beginning,
        heard: Heard<'_>,
        report: &mut ImportReport,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let import = self.begun(beginning).await?;
        let scanned = self.scan(client, map, &import.terms, heard).await?;
        let Scanned {
            assigned,
            report: found,
        } = scanned;
        *report = ImportReport {
            source: import.terms.source.clone(),
            ..found
        };
        let mut work = Work {
            subscriptions: self,
            client,
            assigned: &assigned,
            import,
            report,
            heard,
        };
        work.run().await
    }

    async fn begun(&self, beginning: Beginning) -> Result<Import, Failure> {
        let terms = match beginning {
            Beginning::Resumed(mut import) => {
                self.enter_import(&mut import, false).await?;
                return Ok(import);
            }
            Beginning::New(terms) => terms,
        };
        let mut import = Import {
            id: Uuid::now_v7(),
            terms,
            phase: Phase::Customers,
            cursor: None,
            counts: Counts::new(),
            entered_at: Timestamp::UNIX_EPOCH,
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        import.entered_at = store::begin(tx.conn(), &import).await?;
        tx.commit().await?;
        Ok(import)
    }

    /// Enters how far an import is, unless another process has it by now.
    async fn enter_import(&self, import: &mut Import, ended: bool) -> Result<(), Failure> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let entered = store::advance(tx.conn(), import, ended).await?;
        tx.commit().await?;
        import.entered_at = entered.ok_or(Failure::ImportTaken)?;
        Ok(())
    }
}

/// An import under way.
struct Work<'a> {
    subscriptions: &'a Subscriptions,
    client: &'a Client,
    assigned: &'a std::collections::HashMap<String, assign::Assigned>,
    import: Import,
    report: &'a mut ImportReport,
    heard: Heard<'a>,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        self.go_through_again();
        self.report.done.clone_from(&self.import.counts);
        loop {
            let next = self.page().await?;
            self.import.cursor = next;
            let mut ended = false;
            if self.import.cursor.is_none() {
                match self.import.phase.next() {
                    Some(phase) => self.import.phase = phase,
                    None => ended = true,
                }
            }
            self.report.done.clone_from(&self.import.counts);
            self.subscriptions
                .enter_import(&mut self.import, ended)
                .await?;
            if ended {
                return Ok(());
            }
        }
    }

    /// What failed, or was no organization's when its pages were gone through, is on pages
    /// that are passed: then all are gone through again. What is here already stays as it is.
    fn go_through_again(&mut self) {
        let import = &mut self.import;
        let failed = import.counts.remove(FAILED).is_some();
        let is_unlinked = |one: &assign::Assigned| !matches!(one, assign::Assigned::Linked(_));
        let passed = import.phase != Phase::Customers;
        if failed || (passed && self.assigned.values().any(is_unlinked)) {
            (import.phase, import.cursor) = (Phase::Customers, None);
            for count in import.counts.values_mut() {
                count.seen = 0;
            }
        }
    }

    /// Goes through a page; returns after which object the next one begins.
    async fn page(&mut self) -> Result<Option<String>, Failure> {
        match self.import.phase {
            Phase::Customers => self.customers().await,
            Phase::Subscriptions => self.subscriptions().await,
            Phase::PaymentMethods => self.payment_methods().await,
            Phase::Invoices => {
                let since = self.import.terms.since;
                self.invoices(AccountList::Invoices(since)).await
            }
            // Those that are older, and still to be paid.
            Phase::OpenInvoices => self.invoices(AccountList::OpenInvoices).await,
            Phase::Charges => self.charges().await,
            Phase::Refunds => self.refunds().await,
            Phase::Disputes => self.disputes().await,
        }
    }

    /// Counts a page's objects.
    fn count(&mut self, kind: &'static str, seen: usize, written: usize) {
        let count = self.import.counts.entry(kind.to_owned()).or_default();
        count.seen += seen as u64;
        count.written += written as u64;
        (self.heard)(kind, count.seen);
    }

    /// Tells what cannot be imported, unless nothing else can be either.
    fn failed(&mut self, customer: &str, id: &str, failure: Failure) -> Result<(), Failure> {
        if stops_round(&failure) {
            return Err(failure);
        }
        tracing::warn!(customer, id, %failure, "Something could not be imported");
        self.find_failed(customer, format!("{id}: {failure}"));
        Ok(())
    }

    fn find_failed(&mut self, customer: &str, detail: String) {
        // Whoever goes on with the import is to know.
        self.import
            .counts
            .entry(FAILED.to_owned())
            .or_default()
            .seen += 1;
        let finding = Finding::of(Reason::Failed, customer, detail);
        self.report.findings.push(finding);
    }
}
