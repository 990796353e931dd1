//! What must be true after a storm, by Stripe's account and our rows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Storm, Tenant};
use crate::subscriptions::storm::{OUR_STATE, state_in_stripe};
use crate::subscriptions::world::text;
use crate::support::program::{program_with_stripe, run_beside};
use crate::webhooks::workbench::verify_audit;

/// Compares everything; returns how many charges have succeeded.
pub async fn all(storm: &Storm) -> usize {
    let customers = storm.stripe.list("/v1/customers", &[]).await;
    let mut charges = 0;
    for tenant in &storm.tenants {
        charges += one(storm, tenant, &customers).await;
    }
    verify_audit(&storm.db).await;
    reconciled(storm).await;
    charges
}

async fn one(storm: &Storm, tenant: &Tenant, customers: &[Value]) -> usize {
    let (seed, id) = (storm.seed, tenant.id.to_string());
    let owned = "SELECT coalesce(jsonb_agg(stripe_customer_id), '[]') FROM billing_customers
                  WHERE organization_id = ";
    let owned = storm.db.value(&format!("{owned} '{id}'")).await;
    let owned: Vec<String> = serde_json::from_str(&owned).unwrap();
    assert!(owned.len() <= 1, "seed {seed}: {owned:?}");
    let made = customers
        .iter()
        .filter(|one| one["metadata"]["organization_id"] == *id);
    assert!(made.count() <= 1, "seed {seed}: a second customer");
    let Some(customer) = owned.first() else {
        return 0;
    };

    let subscriptions = storm.stripe.subscriptions(customer).await;
    let theirs: BTreeMap<String, Value> = subscriptions
        .iter()
        .map(|one| (text(one, "id"), state_in_stripe(one)))
        .collect();
    let ours = storm.db.value(&format!("{OUR_STATE} '{id}'")).await;
    let ours: BTreeMap<String, Value> = serde_json::from_str(&ours).unwrap();
    assert_eq!(ours, theirs, "seed {seed}");
    let running: Vec<&Value> = subscriptions
        .iter()
        .filter(|one| one["status"] != "canceled" && one["status"] != "incomplete_expired")
        .collect();
    assert!(running.len() <= 1, "seed {seed}: {running:#?}");

    let grants = |one: &&&Value| {
        ["active", "trialing", "past_due"]
            .map(Value::from)
            .contains(&one["status"])
    };
    let key = running.iter().find(grants).map(|one| {
        let item = &one["items"]["data"][0];
        text(&item["price"], "lookup_key")
    });
    let tier = match key.as_deref() {
        None => "free",
        Some("valuecanvas_standard_monthly") => "standard",
        Some(_) => "enterprise",
    };
    let plan = format!(
        "SELECT plan_tier || ' ' || (SELECT string_agg(DISTINCT plan_tier, ',')
                                       FROM usage_quotas WHERE organization_id = o.id)
           FROM organizations o WHERE id = '{id}'"
    );
    assert_eq!(
        storm.db.value(&plan).await,
        format!("{tier} {tier}"),
        "seed {seed}"
    );
    charged_once(storm, customer, &subscriptions).await
}

/// Each invoice is paid by one charge at most, no period is paid twice, and each charge has
/// its one entry in the audit log.
async fn charged_once(storm: &Storm, customer: &str, subscriptions: &[Value]) -> usize {
    let seed = storm.seed;
    let charges = storm
        .stripe
        .list("/v1/charges", &[("customer", customer)])
        .await;
    let succeeded: BTreeSet<String> = charges
        .iter()
        .filter(|charge| charge["status"] == "succeeded")
        .map(|charge| text(charge, "id"))
        .collect();
    let invoices = storm.stripe.invoices(customer).await;
    let paid: Vec<&Value> = invoices
        .iter()
        .filter(|one| one["amount_paid"] != 0)
        .collect();
    let taken: i64 = charges
        .iter()
        .filter(|charge| charge["status"] == "succeeded")
        .filter_map(|charge| charge["amount"].as_i64())
        .sum();
    let due: i64 = paid
        .iter()
        .filter_map(|one| one["amount_paid"].as_i64())
        .sum();
    assert_eq!(
        taken, due,
        "seed {seed}: what was taken, and what invoices say was paid"
    );
    assert_eq!(
        succeeded.len(),
        paid.len(),
        "seed {seed}: a charge for each paid invoice"
    );

    no_two_at_once(storm, &charges, &invoices, subscriptions);
    let entries = format!(
        "SELECT coalesce(jsonb_agg(resource_id), '[]') FROM billing_audit_log
          WHERE action = 'charge_succeeded' AND resource_id IN ({})",
        quoted(&succeeded)
    );
    let entries: Vec<String> = serde_json::from_str(&storm.db.value(&entries).await).unwrap();
    let distinct: BTreeSet<String> = entries.iter().cloned().collect();
    assert_eq!(
        entries.len(),
        distinct.len(),
        "seed {seed}: a charge was entered twice"
    );
    assert_eq!(distinct, succeeded, "seed {seed}: charges without an entry");
    succeeded.len()
}

fn quoted(ids: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    if quoted.is_empty() {
        "''".to_owned()
    } else {
        quoted.join(",")
    }
}

/// Of subscriptions that were paid for and not given back, none began while another ran.
fn no_two_at_once(storm: &Storm, charges: &[Value], invoices: &[Value], subscriptions: &[Value]) {
    let refunded: i64 = charges
        .iter()
        .filter_map(|one| one["amount_refunded"].as_i64())
        .sum();
    let first_paid = |id: &str| {
        invoices.iter().find(|invoice| {
            invoice["billing_reason"] == "subscription_create"
                && invoice["amount_paid"] != 0
                && invoice["parent"]["subscription_details"]["subscription"] == *id
        })
    };
    let mut spans = Vec::new();
    for one in subscriptions {
        if let Some(paid) = first_paid(&text(one, "id")) {
            let begin = one["created"].as_i64().unwrap();
            let end = one["ended_at"].as_i64().unwrap_or(i64::MAX);
            spans.push((begin, end, paid["amount_paid"].as_i64().unwrap()));
        }
    }
    spans.sort_unstable();
    // What began beside another one was given back.
    let beside: i64 = spans
        .windows(2)
        .filter(|two| two[1].0 < two[0].1)
        .map(|two| two[1].2.min(two[0].2))
        .sum();
    assert!(
        refunded >= beside,
        "seed {}: {beside} were paid for a second subscription, and {refunded} given back: {spans:?}",
        storm.seed
    );
}

/// `subscriptions reconcile` finds no drift either.
async fn reconciled(storm: &Storm) {
    let arguments = ["subscriptions", "reconcile", "--json", "--since", "365d"];
    let base = storm.stripe.sandbox.url();
    let ran = run_beside(program_with_stripe(&storm.db, &base, &arguments)).await;
    assert_eq!(
        (ran.status, &ran.json()["drift"]),
        (0, &json!([])),
        "seed {}: {}",
        storm.seed,
        ran.stderr
    );
}
