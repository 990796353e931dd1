//! `organizations`

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use serde_json::Value;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::Failure;
use super::backfill::{PATIENCE, stripe_client};
use super::database::on_database;
use super::organization;
use super::output::{Format, printable, say, table};
use crate::app;
use crate::catalogue::{Catalogue, FREE_TIER};
use crate::config::{GlobalArgs, StripeArgs, StripeConfig};
use crate::db::{self, TenantTx, WorkerTx};
use crate::stripe::client::{Client, ErrorKind};
use crate::tenancy::organizations::{
    self, EraseError, Erased, Identity, LinkError, NewOrganization, Organization, Overview,
};

/// An organization and a Stripe customer.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// The organization's id, or the product's id for it.
    #[arg(value_name = "ORG", required_unless_present = "organization")]
    named: Option<String>,
    /// Same as ORG.
    #[arg(long, value_name = "ORG", conflicts_with = "named")]
    organization: Option<String>,
    /// The Stripe customer (cus_…).
    #[arg(long, value_name = "CUS")]
    stripe_customer: String,
}

#[derive(Debug, Subcommand)]
pub enum Organizations {
    /// Create an organization.
    Create {
        /// Display name.
        #[arg(long)]
        name: String,
        /// The product's id for it, 1 to 255 printable characters.
        #[arg(long, value_name = "ID")]
        external_id: Option<String>,
        /// E-mail address.
        #[arg(long, value_name = "E")]
        email: Option<String>,
        /// The plan without a subscription.
        #[arg(long, value_name = "TIER", default_value = FREE_TIER)]
        plan: String,
        /// Its Stripe customer (cus_…).
        #[arg(long, value_name = "CUS")]
        stripe_customer: Option<String>,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// List all organizations.
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show an organization: plan, subscriptions, invoices, charges, usage, quotas.
    Show {
        /// The organization's id, or the product's id for it.
        #[arg(value_name = "ORG", required_unless_present = "organization")]
        named: Option<String>,
        /// Same as ORG.
        #[arg(long, value_name = "ORG", conflicts_with = "named")]
        organization: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Link an organization to another Stripe customer, which new subscriptions will
    /// use.
    ///
    /// The customer must exist in Stripe where a key is configured.
    LinkCustomer {
        #[command(flatten)]
        linked: LinkArgs,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Take back the link to a Stripe customer that another one has superseded: its events
    /// are not the organization's any more.
    ///
    /// Refused while a subscription runs on the customer, or an invoice of it is unpaid.
    UnlinkCustomer {
        #[command(flatten)]
        linked: LinkArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Erase an organization's personal data permanently. Amounts and the audit
    /// chain stay.
    Erase {
        /// The organization's id, or the product's id for it.
        #[arg(value_name = "ORG", required_unless_present = "organization")]
        named: Option<String>,
        /// Same as ORG.
        #[arg(long, value_name = "ORG", conflicts_with = "named")]
        organization: Option<String>,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
        /// Also delete its customers in Stripe.
        #[arg(long = "stripe")]
        in_stripe: bool,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
}

impl Organizations {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let settings = match &self {
            Self::Create { stripe, .. } | Self::LinkCustomer { stripe, .. } => stripe.check()?,
            _ => StripeConfig::default(),
        };
        let catalogue = Catalogue::load(settings.plans_file.as_deref())?;
        let client = app::stripe_client(&settings)?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 2);
            self.run_on(&pool, &catalogue, client.as_ref()).await
        })
        .await
    }

    async fn run_on(
        self,
        pool: &PgPool,
        catalogue: &Catalogue,
        client: Option<&Client>,
    ) -> Result<(), Failure> {
        match self {
            Self::Create {
                name,
                external_id,
                email,
                plan,
                stripe_customer,
                format,
                ..
            } => {
                let new = NewOrganization {
                    name,
                    plan_tier: plan,
                    stripe_customer_id: stripe_customer,
                };
                let identity = Identity {
                    external_id,
                    email,
                    ..Identity::default()
                };
                create(pool, catalogue, client, (new, identity), format).await
            }
            Self::List { format } => {
                let mut tx = WorkerTx::begin(pool).await?;
                let list = organizations::list(tx.conn()).await?;
                format.print(&list, |list| describe(list))
            }
            Self::Show {
                named,
                organization,
                format,
            } => {
                let id = find(pool, named.or(organization)).await?;
                let mut tx = TenantTx::begin(pool, id).await?;
                let overview = organizations::overview(tx.conn(), id).await?;
                let overview = overview.ok_or_else(|| organization::unknown(&id.to_string()))?;
                format.print(&overview, show)
            }
            Self::LinkCustomer { linked, format, .. } => {
                let id = find(pool, linked.named.or(linked.organization)).await?;
                link_customer(pool, client, id, linked.stripe_customer, format).await
            }
            Self::UnlinkCustomer { linked, format } => {
                let id = find(pool, linked.named.or(linked.organization)).await?;
                unlink_customer(pool, id, linked.stripe_customer, format).await
            }
            Self::Erase {
                named,
                organization,
                yes,
                in_stripe,
                stripe,
                format,
            } => {
                let id = find(pool, named.or(organization)).await?;
                confirm(pool, id, yes).await?;
                let client = match in_stripe {
                    true => Some(stripe_client(&stripe, PATIENCE)?),
                    false => None,
                };
                erase(pool, id, client, format).await
            }
        }
    }
}

async fn create(
    pool: &PgPool,
    catalogue: &Catalogue,
    client: Option<&Client>,
    (new, identity): (NewOrganization, Identity),
    format: Format,
) -> Result<(), Failure> {
    if let Some(customer) = &new.stripe_customer_id {
        check_customer(client, customer).await?;
    }
    let created = organizations::create_with_identity(pool, catalogue, new, identity).await?;
    let made = format!("organization {}", created.id);
    format.print_made(&created, &made, |created| created.id.to_string())
}

async fn link_customer(
    pool: &PgPool,
    client: Option<&Client>,
    id: Uuid,
    stripe_customer: String,
    format: Format,
) -> Result<(), Failure> {
    check_customer(client, &stripe_customer).await?;
    organizations::link_customer(pool, id, &stripe_customer).await?;
    let mut tx = TenantTx::begin(pool, id).await?;
    let elsewhere = organizations::running_elsewhere(tx.conn(), id, &stripe_customer).await?;
    drop(tx);
    for (subscription, customer) in elsewhere {
        say(&format!(
            "warning: {subscription} runs on the customer {customer}, who goes on paying for it; only new \
             subscriptions use {stripe_customer} (`link-customer` with {customer} takes this back)"
        ));
    }
    let linked = serde_json::json!({"id": id, "stripeCustomerId": stripe_customer});
    format.print(&linked, |_| {
        format!(
            "{id}: new subscriptions will use {stripe_customer}; `subscriptions reconcile \
             --apply` mirrors what that customer already has in Stripe"
        )
    })
}

async fn unlink_customer(
    pool: &PgPool,
    id: Uuid,
    stripe_customer: String,
    format: Format,
) -> Result<(), Failure> {
    organizations::unlink_customer(pool, id, &stripe_customer).await?;
    let unlinked = serde_json::json!({"id": id, "stripeCustomerId": stripe_customer});
    format.print(&unlinked, |_| {
        format!(
            "{id}: {stripe_customer} is not its customer any more; remove organization_id from that customer's \
             metadata in Stripe, if it is there, or the next event links it again"
        )
    })
}

/// Asks Stripe, where a key is configured, whether the customer can be charged.
async fn check_customer(client: Option<&Client>, customer: &str) -> Result<(), Failure> {
    // What is no id at all is refused without Stripe.
    let Some(client) = client.filter(|_| organizations::is_customer_id(customer)) else {
        return Ok(());
    };
    match client.customer_now(customer).await {
        Err(error) if error.kind == ErrorKind::NotFound => Err(Failure::failed(format!(
            "Stripe has no customer {customer}; check the id, and that STRIPE_SECRET_KEY is of its account \
             and mode"
        ))),
        Ok(shown) if shown.body["deleted"] == true => Err(Failure::failed(format!(
            "the customer {customer} was deleted in Stripe; name an existing one"
        ))),
        shown => Ok(shown.map(drop)?),
    }
}

/// Erases personal data here and, with a client, the customers in Stripe.
async fn erase(
    pool: &PgPool,
    id: Uuid,
    client: Option<Client>,
    format: Format,
) -> Result<(), Failure> {
    let mut erased = organizations::erase(pool, id).await?;
    if let Some(client) = client {
        for customer in std::mem::take(&mut erased.stripe_customers) {
            let key = format!("erase-{customer}");
            match client.delete_customer(&customer, &key).await {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            organizations::customer_was_deleted(pool, id, &customer).await?;
        }
    }
    format.print(&erased, describe_erased)
}

async fn find(pool: &PgPool, named: Option<String>) -> Result<Uuid, Failure> {
    organization::found(pool, &named.unwrap_or_default()).await
}

/// Asks the user to type the organization's name.
async fn confirm(pool: &PgPool, id: Uuid, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "this cannot be undone: give --yes, or run it in a terminal",
        ));
    }
    let mut tx = TenantTx::begin(pool, id).await?;
    let overview = organizations::overview(tx.conn(), id).await?;
    drop(tx);
    let name = overview
        .as_ref()
        .and_then(|o| o.organization["name"].as_str());
    let name = name.unwrap_or_default().to_owned();
    let _ = write!(
        io::stderr(),
        "The personal data of {name:?} ({id}) will be erased permanently. Type its name: "
    );
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::failed(format!("cannot use the terminal: {error}")))?;
    if line.trim_end_matches(['\r', '\n']) == name {
        Ok(())
    } else {
        Err(Failure::failed(
            "the name does not match; nothing was erased",
        ))
    }
}

fn describe(list: &[Organization]) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|organization| {
            vec![
                organization.id.to_string(),
                organization.external_id.clone().unwrap_or_default(),
                organization.plan_tier.clone(),
                organization.stripe_customer_id.clone().unwrap_or_default(),
                match organization.erased_at {
                    // Its name is no longer one.
                    Some(at) => format!("(erased at {at})"),
                    None => organization.name.clone(),
                },
            ]
        })
        .collect();
    let headings = ["ID", "EXTERNAL ID", "PLAN", "STRIPE CUSTOMER", "NAME"];
    table(&headings, &rows)
}

fn describe_erased(erased: &Erased) -> String {
    let mut text = format!(
        "{}: erased {} users, {} API keys, {} payment methods, {} webhook payloads, and texts in \
         {} other rows; amounts and the audit chain stay (`audit verify`)",
        erased.organization_id,
        erased.users,
        erased.api_keys,
        erased.payment_methods,
        erased.webhook_payloads,
        erased.other_rows
    );
    if !erased.stripe_customers.is_empty() {
        text += &format!(
            "\nStripe still has {}: delete it there, or run this again with --stripe; then run it \
             once more to erase the events about the deletion",
            erased.stripe_customers.join(", ")
        );
    }
    text
}

fn show(overview: &Overview) -> String {
    let mut text = String::new();
    let organization = &overview.organization;
    for (name, value) in organization.as_object().into_iter().flatten() {
        text += &format!("{name}: {}\n", cell(value));
    }
    for (title, rows) in [
        ("customers", &overview.customers),
        ("subscriptions", &overview.subscriptions),
        ("invoices", &overview.invoices),
        ("charges", &overview.charges),
        ("payment methods", &overview.payment_methods),
        ("usage", &overview.usage),
        ("quotas", &overview.quotas),
        ("grace periods", &overview.grace_periods),
        ("alerts", &overview.alerts),
        ("usage alerts", &overview.usage_alerts),
        ("open requests", &overview.open_requests),
    ] {
        text += &format!("\n{title}: {}\n", rows.len());
        for row in rows {
            let fields = row.as_object().into_iter().flatten();
            let fields = fields.filter(|(_, value)| !value.is_null());
            let line: Vec<String> = fields
                .map(|(name, value)| format!("{name}={}", cell(value)))
                .collect();
            text += &format!("  {}\n", printable(&line.join(" ")));
        }
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Database(error) => error.into(),
            LinkError::CustomerId(_) => Self::usage(error.to_string()),
            LinkError::Taken(..)
            | LinkError::Deleted(_)
            | LinkError::Erased(_)
            | LinkError::NotLinked(..)
            | LinkError::Current(_)
            | LinkError::Running { .. }
            | LinkError::Unpaid { .. }
            | LinkError::Busy(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<EraseError> for Failure {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Database(error) => error.into(),
            EraseError::Running(..) | EraseError::Open(_) | EraseError::CheckoutOpen => {
                Self::failed(error.to_string())
            }
        }
    }
}
