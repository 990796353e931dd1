//! Every mirrored column against the account that the stand-in has, read here by hand and not
//! by the service's own reading. A column that is new is to be put somewhere below.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{Storm, Tenant};
use crate::subscriptions::world::text;

type Computed = fn(&Value) -> Value;

/// A table, and where each of its columns is in Stripe's object.
struct Mirror {
    table: &'static str,
    id: &'static str,
    columns: &'static [(&'static str, &'static str)],
    computed: &'static [(&'static str, Computed)],
    /// What is ours alone, beside [`OURS`].
    ours: &'static [&'static str],
}

/// Of every table.
const OURS: [&str; 7] = [
    "organization_id",
    "last_event_at",
    "last_event_rank",
    "last_event_id",
    "tied_event_ids",
    "created_at",
    "updated_at",
];
/// Signed anew whenever they are shown.
const LINKS: [&str; 3] = ["hosted_invoice_url", "invoice_pdf", "receipt_url"];

const CUSTOMERS: Mirror = Mirror {
    table: "billing_customers",
    id: "stripe_customer_id",
    columns: &[("delinquent", "/delinquent"), ("currency", "/currency")],
    computed: &[
        ("deleted_at", |_| Value::Null),
        ("discount_ids", |one| ids(&one["discount"])),
        ("tax_country", |one| one["address"]["country"].clone()),
        ("tax_located", |one| {
            json!(!one["address"]["country"].is_null())
        }),
        ("default_payment_method_id", |one| {
            first(&[
                &one["invoice_settings"]["default_payment_method"],
                &one["default_source"],
            ])
        }),
    ],
    ours: &["linked_at"],
};

const SUBSCRIPTIONS: Mirror = Mirror {
    table: "billing_subscriptions",
    id: "stripe_subscription_id",
    columns: &[
        ("stripe_customer_id", "/customer"),
        ("status", "/status"),
        ("stripe_status", "/status"),
        ("currency", "/currency"),
        ("billing_cycle_anchor", "/billing_cycle_anchor"),
        ("billing_mode", "/billing_mode/type"),
        ("collection_method", "/collection_method"),
        ("trial_start", "/trial_start"),
        ("trial_end", "/trial_end"),
        ("cancel_at", "/cancel_at"),
        ("cancel_at_period_end", "/cancel_at_period_end"),
        ("canceled_at", "/canceled_at"),
        ("ended_at", "/ended_at"),
        ("latest_invoice_id", "/latest_invoice"),
        ("stripe_test_clock_id", "/test_clock"),
        ("metadata", "/metadata"),
        ("livemode", "/livemode"),
        ("stripe_created_at", "/created"),
        ("stripe_schedule_id", "/schedule"),
        ("cancellation_comment", "/cancellation_details/comment"),
        ("cancellation_feedback", "/cancellation_details/feedback"),
        ("cancellation_reason", "/cancellation_details/reason"),
        ("has_more_items", "/items/has_more"),
        ("collection_paused", "/pause_collection/behavior"),
    ],
    computed: &[
        ("current_period_start", |one| {
            earliest(one, "current_period_start")
        }),
        ("current_period_end", |one| {
            earliest(one, "current_period_end")
        }),
        ("default_payment_method_id", |one| {
            first(&[&one["default_payment_method"], &one["default_source"]])
        }),
        ("discount_ids", |one| ids(&one["discounts"])),
        ("discounted", |one| {
            let own = ids(&one["discounts"]) != json!([]);
            let mut items = list(&one["items"]["data"]);
            json!(own || items.any(|item| ids(&item["discounts"]) != json!([])))
        }),
        ("taxed", |one| {
            let automatic = one["automatic_tax"]["enabled"] == json!(true);
            json!(automatic || list(&one["default_tax_rates"]).next().is_some())
        }),
    ],
    ours: &[
        "plan_tier",
        "known_tier",
        "plan_version",
        "plan_interval",
        "plan_seats",
        "plan_addons",
        "ask_again_since",
        "recovery_attempts",
        "next_recovery_at",
        "usage_period_start",
        "usage_period_end",
        "past_due_since",
        "access_ends_at",
        "access_ended_at",
        // Compared by what of it is kept, below.
        "pending_update",
    ],
};

const ITEMS: Mirror = Mirror {
    table: "billing_subscription_items",
    id: "stripe_subscription_item_id",
    columns: &[
        ("stripe_subscription_id", "/subscription"),
        ("stripe_price_id", "/price/id"),
        ("stripe_product_id", "/price/product"),
        ("lookup_key", "/price/lookup_key"),
        ("usage_type", "/price/recurring/usage_type"),
        ("unit_amount", "/price/unit_amount"),
        ("unit_amount_decimal", "/price/unit_amount_decimal"),
        ("currency", "/price/currency"),
        ("recurring_interval", "/price/recurring/interval"),
        (
            "recurring_interval_count",
            "/price/recurring/interval_count",
        ),
        ("quantity", "/quantity"),
        ("current_period_start", "/current_period_start"),
        ("current_period_end", "/current_period_end"),
        ("quantity_divide_by", "/price/transform_quantity/divide_by"),
        ("quantity_round", "/price/transform_quantity/round"),
        ("tax_behavior", "/price/tax_behavior"),
    ],
    computed: &[
        ("discount_ids", |one| ids(&one["discounts"])),
        // The storm knows no tax rates.
        ("included_tax_percent", |_| Value::Null),
    ],
    ours: &["plan_tier", "metric", "seats", "addon"],
};

const INVOICES: Mirror = Mirror {
    table: "billing_invoices",
    id: "stripe_invoice_id",
    columns: &[
        ("stripe_customer_id", "/customer"),
        (
            "stripe_subscription_id",
            "/parent/subscription_details/subscription",
        ),
        ("number", "/number"),
        ("status", "/status"),
        ("billing_reason", "/billing_reason"),
        ("collection_method", "/collection_method"),
        ("currency", "/currency"),
        ("subtotal_amount", "/subtotal"),
        ("total_amount", "/total"),
        ("amount_due", "/amount_due"),
        ("amount_paid", "/amount_paid"),
        ("amount_remaining", "/amount_remaining"),
        ("starting_balance", "/starting_balance"),
        ("ending_balance", "/ending_balance"),
        ("attempt_count", "/attempt_count"),
        ("next_payment_attempt", "/next_payment_attempt"),
        ("period_start", "/period_start"),
        ("period_end", "/period_end"),
        ("due_date", "/due_date"),
        ("finalized_at", "/status_transitions/finalized_at"),
        ("paid_at", "/status_transitions/paid_at"),
        ("voided_at", "/status_transitions/voided_at"),
        ("hosted_invoice_url", "/hosted_invoice_url"),
        ("invoice_pdf", "/invoice_pdf"),
        ("metadata", "/metadata"),
        ("livemode", "/livemode"),
        ("stripe_created_at", "/created"),
        ("has_more_items", "/lines/has_more"),
    ],
    computed: &[
        ("discount_amount", |one| {
            json!(sum(&one["total_discount_amounts"]))
        }),
        ("tax_amount", |one| json!(sum(&one["total_taxes"]))),
        ("included_tax_amount", |one| {
            json!(included(&one["total_taxes"]))
        }),
    ],
    ours: &["ask_again_since", "first_failed_at"],
};

const LINES: Mirror = Mirror {
    table: "billing_invoice_items",
    id: "stripe_line_item_id",
    columns: &[
        ("stripe_invoice_id", "/invoice"),
        ("description", "/description"),
        ("amount", "/amount"),
        ("currency", "/currency"),
        ("quantity", "/quantity"),
        ("stripe_price_id", "/pricing/price_details/price"),
        ("period_start", "/period/start"),
        ("period_end", "/period/end"),
    ],
    computed: &[
        ("proration", |one| of_parent(one, "proration")),
        ("stripe_subscription_id", |one| {
            of_parent(one, "subscription")
        }),
        ("stripe_subscription_item_id", |one| {
            of_parent(one, "subscription_item")
        }),
        ("discount_amount", |one| {
            json!(sum(&one["discount_amounts"]))
        }),
        ("tax_amount", |one| json!(sum(&one["taxes"]))),
        ("included_tax_amount", |one| json!(included(&one["taxes"]))),
    ],
    ours: &["position"],
};

const CHARGES: Mirror = Mirror {
    table: "billing_charges",
    id: "stripe_charge_id",
    columns: &[
        ("stripe_customer_id", "/customer"),
        ("stripe_payment_intent_id", "/payment_intent"),
        ("stripe_payment_method_id", "/payment_method"),
        ("status", "/status"),
        ("currency", "/currency"),
        ("amount", "/amount"),
        ("amount_captured", "/amount_captured"),
        ("amount_refunded", "/amount_refunded"),
        ("paid", "/paid"),
        ("captured", "/captured"),
        ("refunded", "/refunded"),
        ("disputed", "/disputed"),
        ("failure_code", "/failure_code"),
        ("failure_message", "/failure_message"),
        ("outcome_type", "/outcome/type"),
        ("outcome_network_status", "/outcome/network_status"),
        ("outcome_reason", "/outcome/reason"),
        ("outcome_risk_level", "/outcome/risk_level"),
        ("outcome_seller_message", "/outcome/seller_message"),
        ("card_brand", "/payment_method_details/card/brand"),
        ("card_last4", "/payment_method_details/card/last4"),
        ("description", "/description"),
        ("receipt_url", "/receipt_url"),
        ("metadata", "/metadata"),
        ("livemode", "/livemode"),
        ("stripe_created_at", "/created"),
    ],
    computed: &[],
    // Of the invoice, the charge says nothing any more: see below.
    ours: &[
        "stripe_invoice_id",
        "amount_refunded_told",
        "refunds_told_by",
    ],
};

const METHODS: Mirror = Mirror {
    table: "billing_payment_methods",
    id: "stripe_payment_method_id",
    columns: &[
        ("stripe_customer_id", "/customer"),
        ("type", "/type"),
        ("brand", "/card/brand"),
        ("last4", "/card/last4"),
        ("exp_month", "/card/exp_month"),
        ("exp_year", "/card/exp_year"),
        ("funding", "/card/funding"),
        ("country", "/card/country"),
        ("metadata", "/metadata"),
        ("livemode", "/livemode"),
        ("stripe_created_at", "/created"),
    ],
    computed: &[("status", |_| json!("attached"))],
    ours: &[],
};

const REFUNDS: Mirror = Mirror {
    table: "billing_refunds",
    id: "stripe_refund_id",
    columns: &[
        ("stripe_charge_id", "/charge"),
        ("stripe_payment_intent_id", "/payment_intent"),
        ("status", "/status"),
        ("reason", "/reason"),
        ("failure_reason", "/failure_reason"),
        ("currency", "/currency"),
        ("amount", "/amount"),
        ("metadata", "/metadata"),
        ("stripe_created_at", "/created"),
    ],
    computed: &[],
    ours: &[],
};

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// An id, bare or of an object.
fn id(value: &Value) -> Value {
    match value {
        Value::Object(object) if object.contains_key("object") => object["id"].clone(),
        other => other.clone(),
    }
}

fn first(values: &[&Value]) -> Value {
    let mut found = values.iter().filter(|value| !value.is_null());
    found.next().map_or(Value::Null, |value| id(value))
}

/// The ids of one discount, or of several.
fn ids(discounts: &Value) -> Value {
    match discounts {
        Value::Null => json!([]),
        Value::Array(all) => all.iter().map(id).collect(),
        one => json!([id(one)]),
    }
}

/// Of the item whose period ends first; a storm's subscriptions have one plan each.
fn earliest(subscription: &Value, name: &str) -> Value {
    let items = list(&subscription["items"]["data"]);
    let first = items.min_by_key(|item| item["current_period_end"].as_i64());
    first.map_or(Value::Null, |item| item[name].clone())
}

fn sum(amounts: &Value) -> i64 {
    list(amounts)
        .map(|one| one["amount"].as_i64().unwrap())
        .sum()
}

fn included(taxes: &Value) -> i64 {
    let inclusive = list(taxes).filter(|one| one["tax_behavior"] == "inclusive");
    inclusive.map(|one| one["amount"].as_i64().unwrap()).sum()
}

/// What a line's parent says, whichever kind it is.
fn of_parent(line: &Value, name: &str) -> Value {
    let kinds = ["subscription_item_details", "invoice_item_details"];
    let of = kinds.map(|kind| &line["parent"][kind]);
    let found = of.into_iter().find(|details| details.is_object());
    found.map_or(Value::Null, |details| details[name].clone())
}

/// Whether a column has what Stripe shows.
fn is_same(column: &str, ours: &Value, theirs: &Value) -> bool {
    if LINKS.contains(&column) {
        return ours.is_null() == theirs.is_null();
    }
    let moment = |text: &Value| Some(text.as_str()?.parse::<Timestamp>().ok()?.as_second());
    match (ours, theirs) {
        // PostgreSQL's time, and Stripe's.
        (Value::String(_), Value::Number(secs)) => moment(ours) == secs.as_i64(),
        // Exact amounts are numbers here, and texts there.
        (Value::Number(ours), Value::String(theirs)) => {
            let ours: Decimal = ours.to_string().parse().unwrap();
            theirs.parse() == Ok(ours)
        }
        (Value::Null, Value::Array(none)) => none.is_empty(),
        _ => *ours == id(theirs),
    }
}

impl Mirror {
    /// The rows of an organization, by their ids.
    async fn rows(&self, storm: &Storm, tenant: &Tenant) -> BTreeMap<String, Value> {
        let Self { table, id, .. } = self;
        let rows = format!(
            "SELECT coalesce(json_object_agg({id}, to_json(r)), '{{}}') FROM {table} r
              WHERE organization_id = '{}'",
            tenant.id
        );
        serde_json::from_str(&storm.db.value(&rows).await).unwrap()
    }

    /// Compares rows with the objects of the same ids, of which there are no others.
    fn compare(&self, seed: u64, rows: &BTreeMap<String, Value>, objects: &[Value]) {
        let table = self.table;
        let named: BTreeSet<String> = objects.iter().map(|one| text(one, "id")).collect();
        let known: BTreeSet<String> = rows.keys().cloned().collect();
        assert_eq!(known, named, "seed {seed}: {table}");
        for object in objects {
            let row = rows[&text(object, "id")].as_object().unwrap();
            let mut left: BTreeSet<&str> = row.keys().map(String::as_str).collect();
            let mut differ = Vec::new();
            let direct = self.columns.iter().map(|(column, path)| {
                let theirs = object.pointer(path).unwrap_or(&Value::Null);
                (*column, theirs.clone())
            });
            let computed = self.computed.iter();
            let computed = computed.map(|(column, of)| (*column, of(object)));
            for (column, theirs) in direct.chain(computed) {
                assert!(left.remove(column), "{table} has no {column}");
                if !is_same(column, &row[column], &theirs) {
                    differ.push(format!("{column}: {}, {theirs}", row[column]));
                }
            }
            // A customer that we made has no more than its id until Stripe tells of it.
            if table == CUSTOMERS.table && row["last_event_at"].is_null() {
                differ.clear();
            }
            for own in self.ours.iter().chain([&self.id]).chain(&OURS) {
                left.remove(own);
            }
            assert_eq!(
                left,
                BTreeSet::new(),
                "{table}: columns that are neither compared nor ours"
            );
            assert_eq!(
                differ,
                Vec::<String>::new(),
                "seed {seed}: {table}, ours and Stripe's: {object:#}"
            );
        }
    }
}

/// Compares all that is mirrored of a tenant's customer.
pub async fn all(storm: &Storm, tenant: &Tenant, customer: &str) {
    let (seed, stripe) = (storm.seed, &storm.stripe);
    let shown = stripe.get(&format!("/v1/customers/{customer}"), &[]).await;
    CUSTOMERS.compare(seed, &CUSTOMERS.rows(storm, tenant).await, &[shown]);

    let subscriptions = stripe.subscriptions(customer).await;
    let rows = SUBSCRIPTIONS.rows(storm, tenant).await;
    SUBSCRIPTIONS.compare(seed, &rows, &subscriptions);
    for one in &subscriptions {
        let ours = &rows[&text(one, "id")]["pending_update"];
        let waits = (ours.is_null(), &ours["expires_at"]);
        let theirs = &one["pending_update"];
        assert_eq!(
            waits,
            (theirs.is_null(), &theirs["expires_at"]),
            "seed {seed}"
        );
    }
    let items = subscriptions
        .iter()
        .flat_map(|one| list(&one["items"]["data"]));
    let items: Vec<Value> = items.cloned().collect();
    ITEMS.compare(seed, &ITEMS.rows(storm, tenant).await, &items);

    let invoices = stripe.invoices(customer).await;
    let rows = INVOICES.rows(storm, tenant).await;
    INVOICES.compare(seed, &rows, &invoices);
    let mut lines = Vec::new();
    for invoice in &invoices {
        let path = format!("/v1/invoices/{}/lines", text(invoice, "id"));
        lines.extend(stripe.list(&path, &[]).await);
    }
    LINES.compare(seed, &LINES.rows(storm, tenant).await, &lines);

    let charges = stripe.list("/v1/charges", &[("customer", customer)]).await;
    let rows = CHARGES.rows(storm, tenant).await;
    CHARGES.compare(seed, &rows, &charges);
    for charge in &charges {
        let intent = text(charge, "payment_intent");
        let fields = [
            ("payment[type]", "payment_intent"),
            ("payment[payment_intent]", &*intent),
        ];
        let payments = stripe.list("/v1/invoice_payments", &fields).await;
        let of: BTreeSet<String> = payments.iter().map(|one| text(one, "invoice")).collect();
        let ours = &rows[&text(charge, "id")]["stripe_invoice_id"];
        let ours: BTreeSet<String> = ours.as_str().map(str::to_owned).into_iter().collect();
        assert_eq!(ours, of, "seed {seed}: the invoice of a charge: {charge:#}");
    }
    let refunds = stripe.list("/v1/refunds", &[]).await;
    let named: BTreeSet<String> = charges.iter().map(|one| text(one, "id")).collect();
    let refunds = refunds
        .into_iter()
        .filter(|one| named.contains(&text(one, "charge")));
    let refunds: Vec<Value> = refunds.collect();
    REFUNDS.compare(seed, &REFUNDS.rows(storm, tenant).await, &refunds);

    let path = format!("/v1/customers/{customer}/payment_methods");
    let attached = stripe.list(&path, &[]).await;
    let mut rows = METHODS.rows(storm, tenant).await;
    // Stripe lists none that is gone.
    rows.retain(|_, row| row["status"] != "detached");
    METHODS.compare(seed, &rows, &attached);
}
