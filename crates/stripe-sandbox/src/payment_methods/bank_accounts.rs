//! Bank accounts, which a hosted page takes beside cards.

use serde_json::{Value, json};

use super::{PaymentMethod, fingerprint};

impl PaymentMethod {
    pub(super) fn kind(&self) -> &'static str {
        match self.card.is_bank() {
            true => "us_bank_account",
            false => "card",
        }
    }

    pub(super) fn render_bank_account(&self) -> Value {
        json!({
            "id": self.id,
            "object": "payment_method",
            "allow_redisplay": "unspecified",
            "billing_details": self.billing_details(),
            "created": self.created_secs,
            "customer": self.customer,
            "customer_account": null,
            "livemode": false,
            "metadata": self.metadata,
            "type": "us_bank_account",
            "us_bank_account": {
                "account_holder_type": "individual",
                "account_type": "checking",
                "bank_name": "STRIPE TEST BANK",
                "fingerprint": fingerprint(self.card.number),
                "last4": self.card.last4(),
                "networks": { "preferred": "ach", "supported": ["ach"] },
                "routing_number": "110000000",
                "status_details": {},
            },
        })
    }
}
