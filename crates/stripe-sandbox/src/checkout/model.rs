//! A checkout session.

use serde_json::{Value, json};

use crate::metadata::Metadata;
use crate::store::Keyed;

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Subscription,
    Setup,
}

impl Mode {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Setup => "setup",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Open,
    Complete,
    Expired,
}

impl Status {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Expired => "expired",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    Paid,
    /// A bank debit may be under way.
    Unpaid,
    NotRequired,
}

impl PaymentStatus {
    const fn name(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Unpaid => "unpaid",
            Self::NotRequired => "no_payment_required",
        }
    }
}

/// A line item: a price, and how many of it unless it is metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineItem {
    pub id: String,
    pub price: String,
    pub quantity: Option<u64>,
    /// In the currency's minor unit; zero for a metered price.
    pub amount: i64,
    pub description: String,
}

/// A checkout session.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: String,
    pub created_secs: i64,
    pub expires_secs: i64,
    pub mode: Mode,
    pub status: Status,
    pub payment_status: PaymentStatus,
    pub customer: Option<String>,
    pub customer_email: Option<String>,
    pub client_reference_id: Option<String>,
    pub currency: Option<String>,
    pub amount_subtotal: Option<i64>,
    pub amount_total: Option<i64>,
    pub line_items: Vec<LineItem>,
    pub success_url: String,
    pub cancel_url: Option<String>,
    pub url: String,
    pub locale: Option<String>,
    pub allow_promotion_codes: Option<bool>,
    pub automatic_tax: bool,
    pub collects_address: bool,
    /// Whether the page saves a payment method that nothing is charged to now.
    pub collects_always: bool,
    pub metadata: Metadata,
    /// The metadata of the setup intent.
    pub intent_metadata: Metadata,
    /// The parameters of the subscription that it makes.
    pub subscription_params: Vec<(String, String)>,
    /// The API version of the request.
    pub version: String,
    /// The payment method whose cardholder is being asked.
    pub challenged: Option<String>,
    pub setup_intent: Option<String>,
    pub subscription: Option<String>,
    pub invoice: Option<String>,
}

impl Keyed for Session {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Session {
    /// Whether it can be completed without a card: nothing is due now, and none is asked for.
    pub fn needs_no_card(&self) -> bool {
        let is_free = self.amount_total == Some(0);
        self.mode == Mode::Subscription && is_free && !self.collects_always
    }

    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        let open = self.status == Status::Open;
        json!({
            "id": self.id,
            "object": "checkout.session",
            "adaptive_pricing": null,
            "after_expiration": null,
            "allow_promotion_codes": self.allow_promotion_codes,
            "amount_subtotal": self.amount_subtotal,
            "amount_total": self.amount_total,
            "automatic_tax": {
                "enabled": self.automatic_tax,
                "liability": self.automatic_tax.then(|| json!({ "type": "self" })),
                "provider": self.automatic_tax.then_some("stripe"),
                "status": self.automatic_tax.then_some("requires_location_inputs"),
            },
            "billing_address_collection":
                if self.collects_address { "required" } else { "auto" },
            "cancel_url": self.cancel_url,
            "client_reference_id": self.client_reference_id,
            "client_secret": null,
            "created": self.created_secs,
            "currency": self.currency,
            "custom_fields": [],
            "customer": self.customer,
            "customer_creation": self.customer.is_none().then_some("always"),
            "customer_email": self.customer_email,
            "expires_at": self.expires_secs,
            "invoice": self.invoice,
            "livemode": false,
            "locale": self.locale,
            "metadata": self.metadata,
            "mode": self.mode.name(),
            "origin_context": null,
            "payment_intent": null,
            "payment_link": null,
            "payment_method_collection":
                if self.collects_always { "always" } else { "if_required" },
            "payment_method_types": ["card"],
            "payment_status": self.payment_status.name(),
            "recovered_from": null,
            "setup_intent": self.setup_intent,
            "status": self.status.name(),
            "submit_type": null,
            "subscription": self.subscription,
            "success_url": self.success_url,
            "ui_mode": "hosted",
            "url": open.then_some(&self.url),
        })
    }

    /// Where the page sends a customer who is done.
    #[must_use]
    pub fn return_address(&self) -> String {
        self.success_url.replace("{CHECKOUT_SESSION_ID}", &self.id)
    }
}

impl LineItem {
    #[must_use]
    pub fn render(&self, price: Option<Value>, currency: Option<&str>) -> Value {
        json!({
            "id": self.id,
            "object": "item",
            "amount_discount": 0,
            "amount_subtotal": self.amount,
            "amount_tax": 0,
            "amount_total": self.amount,
            "currency": currency,
            "description": self.description,
            "price": price,
            "quantity": self.quantity,
        })
    }
}
