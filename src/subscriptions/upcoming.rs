//! The next invoice as Stripe would create it now, including usage so far.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Subscriptions;
use super::failure::Failure;
use super::preview::Line;
use super::preview::stripe::is_none_upcoming;
use super::preview::usage_lines::UsagePrices;
use crate::db::RequestTx;
use crate::metering::ledger::Rules;
use crate::metering::usage::{self, MetricUsage};
use crate::stripe::client::Params;
use crate::stripe::objects::Invoice;

/// The next invoice of a subscription. Amounts are in minor units.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UpcomingInvoice)]
pub struct Upcoming {
    pub stripe_subscription_id: String,
    pub currency: String,
    /// Before discounts and the taxes that are added.
    pub subtotal_amount: i64,
    /// What discounts take off.
    pub discount_amount: i64,
    /// All tax; null where none is computed.
    #[schema(required)]
    pub tax_amount: Option<i64>,
    /// The tax that the subtotal includes.
    pub included_tax_amount: i64,
    pub total_amount: i64,
    /// The amount due after the customer's balance is applied.
    pub due_amount: i64,
    /// The customer's balance: negative is credit, positive is debt.
    #[schema(required)]
    pub starting_balance_amount: Option<i64>,
    /// When the invoice is created.
    #[schema(required)]
    pub invoice_date: Option<Timestamp>,
    /// Those of usage and prorations that come to nothing are left out.
    pub lines: Vec<Line>,
    /// Billed usage over the quotas, as counted here. Stripe's lines contain
    /// only what has been reported.
    pub overages: Vec<MetricUsage>,
}

impl Subscriptions {
    /// Returns `None` if nothing more will be invoiced.
    pub async fn upcoming(&self, organization_id: Uuid) -> Result<Option<Upcoming>, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let Some(subscription) = self.state(organization_id).await?.subscription else {
            return Ok(None);
        };
        let params = Params::new().set("subscription", &subscription.id);
        let invoice = match client.preview_invoice(&params).await {
            Ok(invoice) => Invoice::read(&invoice.0)?,
            Err(error) if is_none_upcoming(&error) => return Ok(None),
            Err(error) => return Err(Failure::Stripe(error)),
        };
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        // A grace period costs nothing, so its length does not matter here.
        let rules = Rules {
            catalogue: self.catalogue.clone(),
            grace_hours: 0,
        };
        let usage_prices = UsagePrices::of(Some(&subscription), None, &self.catalogue);
        let lines = usage_prices.shown(&invoice.lines)?;
        let usage = usage::read_all(tx.conn(), &rules, organization_id).await?;
        Ok(Some(Upcoming {
            stripe_subscription_id: subscription.id,
            currency: invoice.currency,
            subtotal_amount: invoice.subtotal,
            discount_amount: invoice.discount.unwrap_or(0),
            tax_amount: invoice.tax,
            included_tax_amount: invoice.included_tax.unwrap_or(0),
            total_amount: invoice.total,
            due_amount: invoice.amount_due,
            starting_balance_amount: invoice.starting_balance,
            invoice_date: invoice.period_end.or(subscription.period_end),
            lines,
            overages: usage
                .into_iter()
                .filter(|usage| usage.overage_amount.is_some() && !usage.overage.0.is_zero())
                .collect(),
        }))
    }
}
