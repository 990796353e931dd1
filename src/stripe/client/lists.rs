//! Lists of the whole account, a page at a time: for long work that goes on where it was
//! interrupted.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::endpoints::{List, PAGE, call, id_of};
use super::error::{ErrorKind, StripeError};
use super::{Client, Params};

/// What is listed, newest first.
#[derive(Debug, Clone, Copy)]
pub enum AccountList<'a> {
    /// Those on test clocks are left out, and deleted ones.
    Customers,
    CustomersOnClock(&'a str),
    TestClocks,
    /// Those attached to a customer.
    PaymentMethods(&'a str),
    /// Ended ones as well, with the discounts that they have.
    Subscriptions,
    /// Created since then, with their payments; likewise below.
    Invoices(Timestamp),
    /// The newest of a customer, with their payments.
    InvoicesOf(&'a str),
    /// Of any age.
    OpenInvoices,
    Charges(Timestamp),
    Refunds(Timestamp),
    Disputes(Timestamp),
}

impl AccountList<'_> {
    fn call(self) -> Result<(&'static str, Cow<'static, str>, Params), StripeError> {
        let since = |at: Timestamp| Params::new().set("created[gte]", at.as_second());
        let (name, path, params) = match self {
            Self::PaymentMethods(customer) => {
                let name = "payment_methods.list";
                let path = format!("/v1/customers/{}/payment_methods", id_of(name, customer)?);
                return Ok((name, path.into(), Params::new()));
            }
            Self::Customers => ("customers.list", "/v1/customers", Params::new()),
            Self::CustomersOnClock(clock) => (
                "customers.list",
                "/v1/customers",
                Params::new().set("test_clock", clock),
            ),
            Self::TestClocks => (
                "test_clocks.list",
                "/v1/test_helpers/test_clocks",
                Params::new(),
            ),
            Self::Subscriptions => (
                "subscriptions.list",
                "/v1/subscriptions",
                Params::new()
                    .set("status", "all")
                    .set("expand[0]", "data.discounts.source.coupon")
                    .set("expand[1]", "data.discounts.promotion_code")
                    .set("expand[2]", "data.items.data.discounts"),
            ),
            Self::Invoices(at) => (
                "invoices.list",
                "/v1/invoices",
                since(at).set("expand[0]", "data.payments"),
            ),
            Self::InvoicesOf(customer) => (
                "invoices.list",
                "/v1/invoices",
                Params::new()
                    .set("customer", customer)
                    .set("expand[0]", "data.payments"),
            ),
            Self::OpenInvoices => (
                "invoices.list",
                "/v1/invoices",
                Params::new()
                    .set("status", "open")
                    .set("expand[0]", "data.payments"),
            ),
            Self::Charges(at) => ("charges.list", "/v1/charges", since(at)),
            Self::Refunds(at) => ("refunds.list", "/v1/refunds", since(at)),
            Self::Disputes(at) => ("disputes.list", "/v1/disputes", since(at)),
        };
        Ok((name, path.into(), params))
    }
}

/// Some objects of a list, as Stripe showed them at a time.
#[derive(Debug, Clone)]
pub struct Page {
    pub objects: Vec<Value>,
    /// By Stripe's clock.
    pub at: Option<Timestamp>,
    /// After which object the next page begins.
    pub next: Option<String>,
}

impl Client {
    /// A page of `list`, from behind the object `after`.
    pub async fn page(
        &self,
        list: AccountList<'_>,
        after: Option<&str>,
    ) -> Result<Page, StripeError> {
        let (name, path, params) = list.call()?;
        let params = params.set("limit", PAGE).set_if("starting_after", after);
        let response = self.get(call(name, &path, &params)).await?;
        let page: List<Value> = serde_json::from_value(response.body).map_err(|error| {
            let message = format!("the response is incomplete: {error}");
            StripeError::new(ErrorKind::Unreadable, name, message)
        })?;
        let last = page.data.last().and_then(|object| object["id"].as_str());
        Ok(Page {
            next: last.filter(|_| page.has_more).map(str::to_owned),
            at: response.date,
            objects: page.data,
        })
    }
}
