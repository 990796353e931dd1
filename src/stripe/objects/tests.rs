//! The fields as API versions and relays write them.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Charge, Invoice, PaymentMethod, ShapeError, Subscription};

/// `base` with `changes`; null removes a member.
fn with(mut base: Value, changes: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        members.remove(name);
        if !value.is_null() {
            members.insert(name.clone(), value.clone());
        }
    }
    base
}

/// An object as read, with the names of the columns.
fn read<T: Serialize>(object: Result<T, ShapeError>) -> Map<String, Value> {
    let Value::Object(row) = serde_json::to_value(object.unwrap()).unwrap() else {
        panic!("no row")
    };
    row
}

/// Each case: the changes to a current object, and what is read.
fn check(read: impl Fn(Value) -> Map<String, Value>, cases: &[(Value, Value)]) {
    for (changes, want) in cases {
        let row = read(changes.clone());
        for (column, value) in want.as_object().unwrap() {
            assert_eq!(&row[column], value, "{column} of {changes}");
        }
    }
}

fn subscription(changes: Value) -> Value {
    let item = json!({"id": "si_1", "price": {"id": "price_1", "unit_amount": 9900}, "quantity": 2,
        "current_period_start": 1_790_000_000, "current_period_end": 1_792_592_000});
    let base = json!({"id": "sub_1", "customer": "cus_1", "status": "active",
        "created": 1_790_000_000, "items": {"object": "list", "data": [item]}});
    with(base, changes)
}

fn invoice(changes: Value) -> Value {
    let base = json!({"id": "in_1", "customer": "cus_1", "currency": "usd", "status": "open",
        "created": 1_790_000_000, "subtotal": 900, "total": 900, "amount_due": 900, "amount_paid": 0,
        "amount_remaining": 900});
    with(base, changes)
}

fn charge(changes: Value) -> Value {
    let base = json!({"id": "ch_1", "customer": "cus_1", "currency": "usd", "status": "succeeded",
        "amount": 900, "amount_captured": 900, "amount_refunded": 0, "captured": true, "paid": true});
    with(base, changes)
}

const TIME: &str = "2026-09-21T14:13:20Z";

#[test]
fn subscriptions_are_read_from_where_each_version_has_them() {
    let row = |changes| read(Subscription::read(&subscription(changes)));
    let rates = json!([{"id": "txr_1"}]);
    check(
        row,
        &[
            (json!({"tax_percent": 19}), json!({"taxed": true})),
            (json!({"tax_percent": "7.7"}), json!({"taxed": true})),
            (json!({"tax_percent": 0.0}), json!({"taxed": false})),
            (json!({"default_tax_rates": rates}), json!({"taxed": true})),
            (
                json!({"automatic_tax": {"enabled": true}}),
                json!({"taxed": true}),
            ),
            (
                json!({"billing": "send_invoice"}),
                json!({"collection_method": "send_invoice"}),
            ),
            (
                json!({"billing": "x", "collection_method": "send_invoice"}),
                json!({"collection_method": "send_invoice"}),
            ),
            (
                json!({"billing_mode": {"type": "flexible"}}),
                json!({"billing_mode": "flexible"}),
            ),
            (
                json!({"billing_mode": "classic"}),
                json!({"billing_mode": "classic"}),
            ),
            (json!({}), json!({"billing_mode": null, "taxed": false})),
            (
                json!({"created": 1_790_000_000.0}),
                json!({"stripe_created_at": TIME}),
            ),
            (
                json!({"created": null, "start": 1_790_000_000}),
                json!({"stripe_created_at": TIME}),
            ),
            (
                json!({"created": null, "start": 5, "start_date": 1_790_000_000}),
                json!({"stripe_created_at": TIME}),
            ),
            (
                json!({"customer": {"id": "cus_2"}}),
                json!({"stripe_customer_id": "cus_2"}),
            ),
            (
                json!({"customer": null, "customer_account": "acct_1"}),
                json!({"stripe_customer_id": "acct_1"}),
            ),
            (json!({"discount": "di_1"}), json!({"discounted": true})),
            (
                json!({"discount": {"id": "di_1"}}),
                json!({"discounted": true}),
            ),
            (json!({"discounts": ["di_1"]}), json!({"discounted": true})),
            (
                json!({"latest_invoice": {"id": "in_1"}}),
                json!({"latest_invoice_id": "in_1"}),
            ),
        ],
    );
    assert!(Subscription::read(&subscription(json!({"customer": null}))).is_err());
}

#[test]
fn a_plan_at_the_top_is_an_item() {
    let plan = json!({"id": "gold", "amount": 2_000, "currency": "usd", "interval": "month",
        "interval_count": 1, "metadata": {"plan_tier": "gold"}});
    let object = subscription(json!({"items": null, "plan": plan, "quantity": 3,
        "current_period_start": 1_790_000_000, "current_period_end": 1_792_592_000}));
    let read = Subscription::read(&object).unwrap();
    assert_eq!(read.items.len(), 1);
    let item = &read.items[0];
    assert_eq!(item.id, "sub_1");
    assert_eq!(item.price_id.as_deref(), Some("gold"));
    assert_eq!((item.unit_amount, item.quantity), (Some(2_000), Some(3)));
    assert_eq!(item.interval.as_deref(), Some("month"));
    assert_eq!(item.price_metadata["plan_tier"], "gold");
    assert_eq!(read.current_period_end, item.current_period_end);
    assert!(read.current_period_end.is_some());
    // If there are items, the plan is ignored.
    let both = Subscription::read(&subscription(json!({"plan": {"id": "gold"}}))).unwrap();
    assert_eq!(both.items.len(), 1);
    assert_eq!(both.items[0].id, "si_1");
    // Without both, there is no item.
    let none = Subscription::read(&subscription(json!({"items": null}))).unwrap();
    assert!(none.items.is_empty());
}

#[test]
fn items_are_read_from_where_each_version_has_them() {
    let row = |item: Value| {
        let item = with(json!({"id": "si_1", "price": {"id": "price_1"}}), item);
        let list = json!({"object": "list", "data": [item]});
        let read = Subscription::read(&subscription(json!({"items": list}))).unwrap();
        serde_json::to_value(&read.items[0])
            .unwrap()
            .as_object()
            .unwrap()
            .clone()
    };
    let price = |member: &str, value: Value| json!({"price": {"id": "price_1", member: value}});
    check(
        row,
        &[
            (
                price("unit_amount_decimal", json!("0.05")),
                json!({"unit_amount_decimal": "0.05"}),
            ),
            (
                price("unit_amount_decimal", json!(0.05)),
                json!({"unit_amount_decimal": "0.05"}),
            ),
            (
                price("unit_amount_decimal", json!(5)),
                json!({"unit_amount_decimal": "5"}),
            ),
            (
                price("unit_amount", json!(9900.0)),
                json!({"unit_amount": 9900}),
            ),
            (
                json!({"price": "price_2"}),
                json!({"stripe_price_id": "price_2"}),
            ),
            (
                json!({"price": null, "plan": "gold"}),
                json!({"stripe_price_id": "gold"}),
            ),
            (
                json!({"price": null, "plan": {"id": "gold", "amount": 7}}),
                json!({"stripe_price_id": "gold", "unit_amount": 7}),
            ),
            (json!({"quantity": 2.0}), json!({"quantity": 2})),
            (json!({"quantity": 1.5}), json!({"quantity": null})),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn invoices_are_read_from_where_each_version_has_them() {
    let row = |changes| read(Invoice::read(&invoice(changes)));
    let old = |flags: Value| {
        let mut changes = json!({"status": null, "amount_paid": null, "amount_remaining": null});
        let flags = flags.as_object().unwrap().clone();
        changes.as_object_mut().unwrap().extend(flags);
        changes
    };
    let flags = |paid: bool, attempted: bool, closed: bool, forgiven: bool| {
        old(json!({"paid": paid, "attempted": attempted, "closed": closed, "forgiven": forgiven}))
    };
    check(
        row,
        &[
            (
                json!({"billing": "send_invoice"}),
                json!({"collection_method": "send_invoice"}),
            ),
            (
                json!({"created": null, "date": 1_790_000_000}),
                json!({"stripe_created_at": TIME}),
            ),
            (
                json!({"created": 1_790_000_000.0}),
                json!({"stripe_created_at": TIME}),
            ),
            (
                json!({"finalized_at": 1_790_000_000}),
                json!({"finalized_at": TIME}),
            ),
            (
                json!({"status_transitions": {"finalized_at": 1_790_000_000}, "finalized_at": 5}),
                json!({"finalized_at": TIME}),
            ),
            (
                flags(true, true, true, false),
                json!({"status": "paid", "amount_paid": 900, "amount_remaining": 0}),
            ),
            (
                flags(false, true, true, true),
                json!({"status": "uncollectible", "amount_paid": 0, "amount_remaining": 900}),
            ),
            (
                flags(false, true, false, false),
                json!({"status": "open", "amount_paid": 0, "amount_remaining": 900}),
            ),
            (
                flags(false, false, true, false),
                json!({"status": "open", "amount_remaining": 900}),
            ),
            (
                flags(false, false, false, false),
                json!({"status": "draft", "amount_remaining": 900}),
            ),
            (
                json!({"amount_paid": null, "amount_remaining": null, "status": "paid"}),
                json!({"amount_paid": 900, "amount_remaining": 0}),
            ),
            (
                json!({"amount_paid": 300, "amount_remaining": null}),
                json!({"amount_remaining": 600}),
            ),
            (
                json!({"customer": null, "customer_account": "acct_1"}),
                json!({"stripe_customer_id": "acct_1"}),
            ),
        ],
    );
    for (changes, field) in [
        (json!({"amount_due": 9900.5}), "amount_due"),
        (json!({"amount_due": "9900"}), "amount_due"),
        (json!({"total": null}), "total"),
        (json!({"created": 1.5}), "created"),
        (json!({"status": null, "amount_paid": null}), "amount_paid"),
    ] {
        let error = Invoice::read(&invoice(changes)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("data.object.{field} ")),
            "{error}"
        );
    }
}

#[test]
fn a_line_of_a_part_of_a_unit_is_kept_without_its_quantity() {
    let line = |quantity: Value| {
        json!({"id": "il_1", "amount": 150, "currency": "usd", "quantity": quantity,
               "quantity_decimal": "1.5"})
    };
    let lines =
        json!({"object": "list", "data": [line(json!(1.5)), line(json!(2)), line(json!(3.0))]});
    let read = Invoice::read(&invoice(json!({"lines": lines}))).unwrap();
    let quantities: Vec<_> = read.lines.iter().map(|line| line.quantity).collect();
    assert_eq!(quantities, [None, Some(2), Some(3)]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn charges_are_read_from_where_each_version_has_them() {
    let row = |changes| read(Charge::read(&charge(changes)));
    let old = json!({"amount_captured": null});
    let paid_by = |kind: &str, details: Value| json!({"payment_method_details": {"type": kind, kind: details}});
    let mut cases = vec![
        (json!({"status": "paid"}), json!({"status": "succeeded"})),
        (json!({"status": null}), json!({"status": "succeeded"})),
        (
            json!({"status": null, "paid": false}),
            json!({"status": "failed"}),
        ),
        (json!({"status": "pending"}), json!({"status": "pending"})),
        (old.clone(), json!({"amount_captured": 900})),
        (
            with(old, json!({"captured": false})),
            json!({"captured": false}),
        ),
        (
            json!({"amount_captured": null, "captured": false}),
            json!({"amount_captured": 0}),
        ),
        (
            json!({"amount_refunded": null, "refunded": true}),
            json!({"amount_refunded": 900}),
        ),
        (json!({"dispute": "dp_1"}), json!({"disputed": true})),
        (
            json!({"source": {"object": "card", "brand": "Visa", "last4": "4242"}}),
            json!({"card_brand": "Visa", "card_last4": "4242"}),
        ),
        (
            json!({"card": {"object": "card", "type": "Visa", "last4": "4242"}}),
            json!({"card_brand": "Visa", "card_last4": "4242"}),
        ),
        (
            json!({"source": {"object": "source", "type": "card", "card": {"brand": "Visa", "last4": "4242"}}}),
            json!({"card_brand": "Visa", "card_last4": "4242"}),
        ),
        (
            json!({"source": {"object": "bank_account", "bank_name": "A BANK", "last4": "6789"}}),
            json!({"card_brand": null, "card_last4": "6789"}),
        ),
        (
            json!({"payment_method_details": {"card": {"brand": "visa", "last4": "4242"}}}),
            json!({"card_brand": "visa", "card_last4": "4242"}),
        ),
        (
            paid_by(
                "amazon_pay",
                json!({"funding": {"type": "card", "card": {"brand": "visa", "last4": "1117"}}}),
            ),
            json!({"card_brand": "visa", "card_last4": "1117"}),
        ),
        (
            paid_by("ideal", json!({"bank": "ing", "iban_last4": "5264"})),
            json!({"card_brand": null, "card_last4": "5264"}),
        ),
        (
            paid_by("link", json!({"country": "DE"})),
            json!({"card_last4": null}),
        ),
        (
            json!({"customer": {"id": "cus_2", "deleted": true}}),
            json!({"stripe_customer_id": "cus_2"}),
        ),
    ];
    for kind in ["card", "card_present", "interac_present"] {
        cases.push((
            paid_by(
                kind,
                json!({"brand": "visa", "last4": "4242", "funding": "credit"}),
            ),
            json!({"card_brand": "visa", "card_last4": "4242"}),
        ));
    }
    for kind in [
        "us_bank_account",
        "ach_debit",
        "sepa_debit",
        "bacs_debit",
        "au_becs_debit",
        "acss_debit",
        "kr_card",
        "nz_bank_account",
    ] {
        cases.push((
            paid_by(kind, json!({"last4": "6789"})),
            json!({"card_last4": "6789"}),
        ));
    }
    check(row, &cases);
    assert!(Charge::read(&charge(json!({"status": null, "paid": null}))).is_err());
}

#[test]
fn payment_methods_of_accounts_are_attached() {
    let method = |changes| {
        let base =
            json!({"id": "pm_1", "type": "card", "card": {"brand": "visa", "last4": "4242"}});
        with(base, changes)
    };
    let row = |changes| read(PaymentMethod::read(&method(changes), None));
    check(
        row,
        &[
            (
                json!({"customer": null, "customer_account": "acct_1"}),
                json!({"status": "attached", "stripe_customer_id": "acct_1"}),
            ),
            (
                json!({"customer": "cus_1", "customer_account": "acct_1"}),
                json!({"status": "attached", "stripe_customer_id": "cus_1"}),
            ),
            (
                json!({}),
                json!({"status": "detached", "stripe_customer_id": null}),
            ),
            (
                json!({"type": "us_bank_account", "us_bank_account": {"bank_name": "A BANK", "last4": "6789"}}),
                json!({"brand": "A BANK", "last4": "6789"}),
            ),
        ],
    );
    let before = json!({"customer": null, "customer_account": "acct_1"});
    let read = PaymentMethod::read(&method(json!({})), before.as_object()).unwrap();
    assert_eq!(
        (read.status, read.customer_id.as_deref()),
        ("detached", Some("acct_1"))
    );
}
