//! Sums of invoice lines.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Line, PreviewUnavailable};
use crate::stripe::objects::{Invoice, InvoiceLine};

/// What lines come to, in minor units:
/// `totalAmount = subtotalAmount - discountAmount + taxAmount - includedTaxAmount`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PreviewTotals)]
pub struct Totals {
    /// Before discounts and the taxes that are added.
    pub subtotal_amount: i64,
    pub discount_amount: i64,
    /// All tax.
    pub tax_amount: i64,
    /// The tax that the subtotal includes.
    pub included_tax_amount: i64,
    pub total_amount: i64,
}

impl Totals {
    /// Of an amount without discount and tax.
    pub fn plain(amount: i64) -> Self {
        Self {
            subtotal_amount: amount,
            total_amount: amount,
            ..Self::default()
        }
    }

    /// Of a whole invoice.
    pub fn of_invoice(invoice: &Invoice) -> Self {
        Self {
            subtotal_amount: invoice.subtotal,
            discount_amount: invoice.discount.unwrap_or(0),
            tax_amount: invoice.tax.unwrap_or(0),
            included_tax_amount: invoice.included_tax.unwrap_or(0),
            total_amount: invoice.total,
        }
    }

    /// Of lines as Stripe shows them.
    pub fn of<'a>(
        lines: impl Iterator<Item = &'a InvoiceLine>,
    ) -> Result<Self, PreviewUnavailable> {
        let each = lines.map(|line| [line.amount, line.discount, line.tax, line.included_tax]);
        Self::sum(each)
    }

    /// Of lines as they are shown.
    pub fn shown(lines: &[Line]) -> Result<Self, PreviewUnavailable> {
        let each = lines.iter().map(|line| {
            [
                line.amount,
                line.discount_amount,
                line.tax_amount,
                line.included_tax_amount,
            ]
        });
        Self::sum(each)
    }

    fn sum(lines: impl Iterator<Item = [i64; 4]>) -> Result<Self, PreviewUnavailable> {
        let too_large = || PreviewUnavailable::OutOfRange("the sum of the lines".to_owned());
        let mut sums = [0_i64; 4];
        for line in lines {
            for (sum, amount) in sums.iter_mut().zip(line) {
                *sum = sum.checked_add(amount).ok_or_else(too_large)?;
            }
        }
        let [subtotal, discount, tax, included] = sums;
        let total = subtotal
            .checked_sub(discount)
            .and_then(|net| net.checked_add(tax.checked_sub(included)?))
            .ok_or_else(too_large)?;
        Ok(Self {
            subtotal_amount: subtotal,
            discount_amount: discount,
            tax_amount: tax,
            included_tax_amount: included,
            total_amount: total,
        })
    }

    /// These without `other`.
    pub fn less(self, other: Self) -> Self {
        Self {
            subtotal_amount: self.subtotal_amount - other.subtotal_amount,
            discount_amount: self.discount_amount - other.discount_amount,
            tax_amount: self.tax_amount - other.tax_amount,
            included_tax_amount: self.included_tax_amount - other.included_tax_amount,
            total_amount: self.total_amount - other.total_amount,
        }
    }
}
