//! Figures as CSV (RFC 4180): amounts in minor units, times in UTC.

use super::figures::{Customer, Month, Movement};
use crate::audit::csv::field;

pub const MONTHS: &str = "month,currency,openingAmount,newAmount,reactivationAmount,\
    expansionAmount,contractionAmount,churnAmount,closingAmount,openingCustomers,newCustomers,\
    reactivatedCustomers,churnedCustomers,closingCustomers,customerChurnPercent,\
    revenueChurnPercent,netRetentionPercent\r\n";
pub const MOVEMENTS: &str = "occurredAt,bookedAt,organizationId,name,currency,sequence,kind,\
    beforeAmount,afterAmount,stripeSubscriptionId,stripeEventId\r\n";
pub const CUSTOMERS: &str =
    "organizationId,name,externalId,planTier,standing,currency,mrrAmount\r\n";

fn line(fields: &[String]) -> String {
    format!("{}\r\n", fields.join(","))
}

pub fn months(months: &[Month]) -> String {
    let lines = months.iter().map(|one| {
        let numbers = [
            one.opening_amount,
            one.new_amount,
            one.reactivation_amount,
            one.expansion_amount,
            one.contraction_amount,
            one.churn_amount,
            one.closing_amount,
            one.opening_customers,
            one.new_customers,
            one.reactivated_customers,
            one.churned_customers,
            one.closing_customers,
        ];
        let percents = [
            &one.customer_churn_percent,
            &one.revenue_churn_percent,
            &one.net_retention_percent,
        ];
        let mut fields = vec![one.month.clone(), field(&one.currency)];
        fields.extend(numbers.map(|number| number.to_string()));
        fields.extend(percents.map(|percent| percent.clone().unwrap_or_default()));
        line(&fields)
    });
    lines.collect()
}

pub fn movements(movements: &[Movement]) -> String {
    let lines = movements.iter().map(|one| {
        line(&[
            one.occurred_at.to_string(),
            one.booked_at.to_string(),
            one.organization_id.to_string(),
            field(one.name.as_deref().unwrap_or_default()),
            field(&one.currency),
            one.sequence.to_string(),
            one.kind.clone(),
            one.before_amount.to_string(),
            one.after_amount.to_string(),
            field(&one.stripe_subscription_id),
            field(&one.stripe_event_id),
        ])
    });
    lines.collect()
}

/// A line for each currency that an organization pays; one without, if it pays none.
pub fn customers(customers: &[Customer]) -> String {
    let mut lines = String::new();
    for one in customers {
        let who = [
            one.organization_id.to_string(),
            field(&one.name),
            field(one.external_id.as_deref().unwrap_or_default()),
            field(&one.plan_tier),
            one.standing.clone(),
        ];
        let pays = one.pays.as_array().map_or(&[][..], Vec::as_slice);
        if pays.is_empty() {
            lines += &line(&[&who[..], &[String::new(), String::new()]].concat());
        }
        for paid in pays {
            let currency = field(paid["currency"].as_str().unwrap_or_default());
            lines += &line(&[&who[..], &[currency, paid["mrrAmount"].to_string()]].concat());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_name_is_no_formula_and_an_amount_stays_a_number() {
        let customer = Customer {
            organization_id: Uuid::nil(),
            name: "=1+1, Inc.".to_owned(),
            external_id: None,
            plan_tier: "standard".to_owned(),
            standing: "paying".to_owned(),
            pays: json!([{"currency": "usd", "mrrAmount": 9900}, {"currency": "eur", "mrrAmount": 1}]),
        };
        let id = Uuid::nil();
        assert_eq!(
            customers(&[customer]),
            format!(
                "{id},\"'=1+1, Inc.\",,standard,paying,usd,9900\r\n\
                 {id},\"'=1+1, Inc.\",,standard,paying,eur,1\r\n"
            )
        );
    }
}
