//! Lists of the account's invoices, charges, refunds and disputes.

use jiff::Timestamp;
use serde_json::Value;

use super::endpoints::{call, id_of};
use super::error::StripeError;
use super::{Client, Params, Response};

fn since(at: Timestamp) -> Params {
    Params::new().set("created[gte]", at.as_second())
}

impl Client {
    /// The account's invoices created since `at`, including drafts.
    pub async fn invoices_since(&self, at: Timestamp) -> Result<Vec<Value>, StripeError> {
        self.all("invoices.list", "/v1/invoices", since(at)).await
    }

    /// The account's charges created since `at`.
    pub async fn charges_since(&self, at: Timestamp) -> Result<Vec<Value>, StripeError> {
        self.all("charges.list", "/v1/charges", since(at)).await
    }

    /// The account's refunds created since `at`, of charges of any age.
    pub async fn refunds_since(&self, at: Timestamp) -> Result<Vec<Value>, StripeError> {
        self.all("refunds.list", "/v1/refunds", since(at)).await
    }

    /// The account's disputes opened since `at`.
    pub async fn disputes_since(&self, at: Timestamp) -> Result<Vec<Value>, StripeError> {
        self.all("disputes.list", "/v1/disputes", since(at)).await
    }

    pub async fn charge(&self, id: &str) -> Result<Response, StripeError> {
        let name = "charges.retrieve";
        let path = format!("/v1/charges/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    pub async fn dispute(&self, id: &str) -> Result<Response, StripeError> {
        let name = "disputes.retrieve";
        let path = format!("/v1/disputes/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }
}
