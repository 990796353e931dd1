//! Lists of the account's customers, invoices, charges, refunds and disputes.

use jiff::Timestamp;
use serde_json::Value;

use super::endpoints::{call, id_of};
use super::error::{ErrorKind, StripeError};
use super::{Client, Params, Response};

fn since(at: Timestamp) -> Params {
    Params::new().set("created[gte]", at.as_second())
}

impl Client {
    /// The account's customers.
    pub async fn listed_customers(&self) -> Result<Vec<Value>, StripeError> {
        self.all("customers.list", "/v1/customers", Params::new())
            .await
    }

    /// The customer as it is now.
    pub async fn customer_now(&self, id: &str) -> Result<Response, StripeError> {
        let name = "customers.retrieve";
        let path = format!("/v1/customers/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    /// The account's invoices created since `at`, including drafts, with their payments.
    pub async fn invoices_since(&self, at: Timestamp) -> Result<Vec<Value>, StripeError> {
        let params = since(at).set("expand[0]", "data.payments");
        self.all("invoices.list", "/v1/invoices", params).await
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

    /// A customer's invoice items, newest first.
    pub async fn invoice_items(&self, customer: &str) -> Result<Vec<Value>, StripeError> {
        let params = Params::new().set("customer", customer);
        self.all("invoiceitems.list", "/v1/invoiceitems", params)
            .await
    }

    /// Adds an item to an invoice to come; returns its id.
    pub async fn create_invoice_item(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<String, StripeError> {
        let name = "invoiceitems.create";
        let made = self
            .post(call(name, "/v1/invoiceitems", params), key)
            .await?;
        let id = made.body["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| StripeError::new(ErrorKind::Unreadable, name, "the item has no id"))
    }

    /// An invoice with what a payer needs to confirm its payment.
    pub async fn invoice_to_confirm(&self, id: &str) -> Result<Response, StripeError> {
        let name = "invoices.retrieve";
        let path = format!("/v1/invoices/{}", id_of(name, id)?);
        let params = Params::new().set("expand[0]", "confirmation_secret");
        self.get(call(name, &path, &params)).await
    }

    /// A subscription's open invoices, newest first.
    pub async fn open_invoices(&self, subscription: &str) -> Result<Vec<Value>, StripeError> {
        let params = Params::new()
            .set("subscription", subscription)
            .set("status", "open");
        self.all("invoices.list", "/v1/invoices", params).await
    }

    pub async fn payment_intent(&self, id: &str) -> Result<Response, StripeError> {
        let name = "payment_intents.retrieve";
        let path = format!("/v1/payment_intents/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    /// Makes an open invoice one that nobody can pay.
    pub async fn void_invoice(&self, id: &str, key: &str) -> Result<Response, StripeError> {
        let name = "invoices.void";
        let path = format!("/v1/invoices/{}/void", id_of(name, id)?);
        self.post(call(name, &path, &Params::new()), key).await
    }

    /// Charges an open invoice now, to a payment method that is named: it may have one of
    /// its own.
    pub async fn pay_invoice(
        &self,
        id: &str,
        method: &str,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "invoices.pay";
        let path = format!("/v1/invoices/{}/pay", id_of(name, id)?);
        let params = Params::new().set("payment_method", method);
        self.post(call(name, &path, &params), key).await
    }

    /// Continues a subscription whose trial paused it, once its invoice is paid.
    pub async fn resume_subscription(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "subscriptions.resume";
        let path = format!("/v1/subscriptions/{}/resume", id_of(name, id)?);
        self.post(call(name, &path, params), key).await
    }

    pub async fn charge(&self, id: &str) -> Result<Response, StripeError> {
        let name = "charges.retrieve";
        let path = format!("/v1/charges/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    pub async fn invoice_payment(&self, id: &str) -> Result<Response, StripeError> {
        let name = "invoice_payments.retrieve";
        let path = format!("/v1/invoice_payments/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    pub async fn checkout_session(&self, id: &str) -> Result<Response, StripeError> {
        let name = "checkout.sessions.retrieve";
        let path = format!("/v1/checkout/sessions/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    pub async fn refund(&self, id: &str) -> Result<Response, StripeError> {
        let name = "refunds.retrieve";
        let path = format!("/v1/refunds/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    pub async fn dispute(&self, id: &str) -> Result<Response, StripeError> {
        let name = "disputes.retrieve";
        let path = format!("/v1/disputes/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }
}
