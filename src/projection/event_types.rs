//! The event types that are projected, and their audit actions.

use super::types::{Handled, HandlerError};
use crate::stripe::event::EventData;
use crate::stripe::objects::{
    BillingObject, Charge, CheckoutSession, Customer, Discount, Dispute, Invoice, InvoicePayment,
    PaymentMethod, Refund, Subscription, SubscriptionSchedule,
};

/// The mirror needs these to be correct.
pub const MAIN_TYPES: [&str; 12] = [
    "invoice.created",
    "invoice.finalized",
    "invoice.updated",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "charge.succeeded",
    "charge.failed",
    "payment_method.attached",
    "payment_method.detached",
];

/// The mirror needs these for refunds, disputes, deleted customers and drafts,
/// renewed cards, pending and scheduled changes and checkouts.
pub const FURTHER_TYPES: [&str; 30] = [
    "invoice.paid",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.deleted",
    "invoice.payment_action_required",
    "customer.updated",
    "customer.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.trial_will_end",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
    "payment_method.updated",
    "payment_method.automatically_updated",
    "checkout.session.completed",
    "checkout.session.expired",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "subscription_schedule.created",
    "subscription_schedule.updated",
    "subscription_schedule.released",
    "subscription_schedule.canceled",
    "subscription_schedule.completed",
    "subscription_schedule.aborted",
];

/// Links a charge to its invoice, which charges do not name since API version
/// 2025-03-31.
pub const LINKING_TYPE: &str = "invoice_payment.paid";

/// Says what `refund.updated` and `refund.failed` do; endpoints of before API version
/// 2024-10-28 may send it alone, and of some ways to pay only.
pub const FORMER_REFUND_TYPE: &str = "charge.refund.updated";

/// Say what a discount takes off and until when, and when it is gone. Subscriptions and
/// customers name their discounts too, so that an endpoint need not send these.
pub const DISCOUNT_TYPES: [&str; 3] = [
    "customer.discount.created",
    "customer.discount.updated",
    "customer.discount.deleted",
];

/// All event types that are projected.
pub const HANDLED_TYPES: [&str; 47] = {
    let mut all = [LINKING_TYPE; 47];
    let mut at = 0;
    while at < MAIN_TYPES.len() {
        all[at] = MAIN_TYPES[at];
        at += 1;
    }
    let mut further = 0;
    while further < FURTHER_TYPES.len() {
        all[at + further] = FURTHER_TYPES[further];
        further += 1;
    }
    let (at, mut discount) = (at + further, 0);
    while discount < DISCOUNT_TYPES.len() {
        all[at + discount] = DISCOUNT_TYPES[discount];
        discount += 1;
    }
    all[at + discount] = FORMER_REFUND_TYPE;
    all
};

/// The audit action of an event of `event_type`.
pub(super) fn action(event_type: &str) -> &'static str {
    match event_type {
        "invoice.created" => "invoice_created",
        "invoice.finalized" => "invoice_finalized",
        "invoice.updated" => "invoice_updated",
        "invoice.payment_succeeded" => "invoice_payment_succeeded",
        "invoice.payment_failed" => "invoice_payment_failed",
        "invoice.payment_action_required" => "invoice_payment_action_required",
        "invoice.paid" => "invoice_paid",
        "invoice.voided" => "invoice_voided",
        "invoice.marked_uncollectible" => "invoice_marked_uncollectible",
        "invoice.deleted" => "invoice_deleted",
        "invoice_payment.paid" => "invoice_payment_paid",
        "customer.updated" => "customer_updated",
        "customer.deleted" => "customer_deleted",
        "customer.discount.created" => "discount_created",
        "customer.discount.updated" => "discount_updated",
        "customer.discount.deleted" => "discount_deleted",
        "customer.subscription.created" => "subscription_created",
        "customer.subscription.updated" => "subscription_updated",
        "customer.subscription.deleted" => "subscription_deleted",
        "customer.subscription.paused" => "subscription_paused",
        "customer.subscription.resumed" => "subscription_resumed",
        "customer.subscription.trial_will_end" => "subscription_trial_will_end",
        "customer.subscription.pending_update_applied" => "subscription_pending_update_applied",
        "customer.subscription.pending_update_expired" => "subscription_pending_update_expired",
        "charge.succeeded" => "charge_succeeded",
        "charge.failed" => "charge_failed",
        "charge.refunded" => "charge_refunded",
        "charge.refund.updated" => "charge_refund_updated",
        "refund.created" => "refund_created",
        "refund.updated" => "refund_updated",
        "refund.failed" => "refund_failed",
        "charge.dispute.created" => "charge_dispute_created",
        "charge.dispute.closed" => "charge_dispute_closed",
        "payment_method.attached" => "payment_method_attached",
        "payment_method.detached" => "payment_method_detached",
        "payment_method.updated" => "payment_method_updated",
        "payment_method.automatically_updated" => "payment_method_automatically_updated",
        "checkout.session.completed" => "checkout_session_completed",
        "checkout.session.expired" => "checkout_session_expired",
        "checkout.session.async_payment_succeeded" => "checkout_session_async_payment_succeeded",
        "checkout.session.async_payment_failed" => "checkout_session_async_payment_failed",
        "subscription_schedule.created" => "subscription_schedule_created",
        "subscription_schedule.updated" => "subscription_schedule_updated",
        "subscription_schedule.released" => "subscription_schedule_released",
        "subscription_schedule.canceled" => "subscription_schedule_canceled",
        "subscription_schedule.completed" => "subscription_schedule_completed",
        "subscription_schedule.aborted" => "subscription_schedule_aborted",
        other => unreachable!("{other} has no handler"),
    }
}

/// Reads the object of an event of a projected type.
pub(super) fn read_object(
    event_type: &str,
    data: &EventData,
) -> Result<BillingObject, Result<Handled, HandlerError>> {
    let object = &data.object;
    let family = |name: &str| event_type.starts_with(name);
    let read = if family("customer.subscription.") {
        Subscription::read(object).map(|o| BillingObject::Subscription(Box::new(o)))
    } else if family("customer.discount.") {
        Discount::read(object).map(|o| BillingObject::Discount(Box::new(o)))
    } else if family("customer.") {
        let deleted = event_type == "customer.deleted";
        Customer::read(object, deleted).map(|o| BillingObject::Customer(Box::new(o)))
    } else if family("invoice.") {
        Invoice::read(object).map(|o| BillingObject::Invoice(Box::new(o)))
    } else if family("invoice_payment.") {
        InvoicePayment::read(object).map(|o| BillingObject::InvoicePayment(Box::new(o)))
    } else if family("charge.dispute.") {
        Dispute::read(object).map(|o| BillingObject::Dispute(Box::new(o)))
    } else if family("refund.") || family("charge.refund.") {
        Refund::read(object).map(|o| BillingObject::Refund(Box::new(o)))
    } else if family("charge.") {
        Charge::read(object).map(|o| BillingObject::Charge(Box::new(o)))
    } else if family("checkout.session.") {
        CheckoutSession::read(object).map(|o| BillingObject::CheckoutSession(Box::new(o)))
    } else if family("subscription_schedule.") {
        SubscriptionSchedule::read(object).map(|o| BillingObject::SubscriptionSchedule(Box::new(o)))
    } else {
        PaymentMethod::read(object, data.previous_attributes.as_ref())
            .map(|o| BillingObject::PaymentMethod(Box::new(o)))
    };
    read.map_err(|error| Err(HandlerError::Permanent(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_listed_once_and_has_an_action_of_its_own() {
        let mut actions: Vec<&str> = HANDLED_TYPES.into_iter().map(action).collect();
        actions.sort_unstable();
        actions.dedup();
        assert_eq!(actions.len(), HANDLED_TYPES.len());
    }
}
