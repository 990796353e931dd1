//! The state of a sandbox, in memory.

use std::collections::{BTreeSet, VecDeque};

use serde_json::Value;

use crate::billing_portal::{self, Configuration};
use crate::checkout::model::Session;
use crate::config::Config;
use crate::coupons::Coupon;
use crate::customer_balance::CustomerBalanceTransaction;
use crate::customers::Customer;
use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::events::Event;
use crate::faults::Fault;
use crate::idempotency::IdempotencyStore;
use crate::ids::IdSource;
use crate::invoice_items::InvoiceItem;
use crate::invoices::model::Invoice;
use crate::meter_events::MeterEvent;
use crate::meters::Meter;
use crate::payment_methods::PaymentMethod;
use crate::payments::balance_transactions;
use crate::payments::charges::Charge;
use crate::payments::disputes::Dispute;
use crate::payments::intents::PaymentIntent;
use crate::payments::refunds::Refund;
use crate::payments::setup_intents::SetupIntent;
use crate::prices::Price;
use crate::products::Product;
use crate::promotion_codes::PromotionCode;
use crate::shape::Shape;
use crate::store::Store;
use crate::subscription_schedules::model::Schedule;
use crate::subscriptions::change::Catalogue;
use crate::subscriptions::model::Subscription;
use crate::taxes::automatic;
use crate::taxes::rates::TaxRate;
use crate::test_clocks::TestClock;
use crate::thin_events::ThinEvent;
use crate::webhooks::delivery::Delivery;
use crate::webhooks::endpoints::WebhookEndpoint;

/// The cause of a change, recorded in the resulting events.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The id of the request; `None` if the passage of time is the cause.
    pub request_id: Option<String>,
    pub idempotency_key: Option<String>,
}

/// The whole state. It changes only under one lock, by one request or clock
/// tick at a time.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub ids: IdSource,
    /// A separate source of request ids, so that reads do not affect object
    /// ids.
    pub request_ids: IdSource,
    /// The wall clock time, set by the holder of the lock.
    pub wall_secs: i64,
    /// The cause of the events being recorded.
    pub origin: Origin,
    pub customers: Store<Customer>,
    /// Changes of customer balances.
    pub customer_balance_transactions: Store<CustomerBalanceTransaction>,
    /// Attached or not.
    pub payment_methods: Store<PaymentMethod>,
    pub products: Store<Product>,
    pub prices: Store<Price>,
    /// Including deleted ones, whose discounts go on.
    pub coupons: Store<Coupon>,
    pub promotion_codes: Store<PromotionCode>,
    /// Set by hand, and those of automatic tax.
    pub tax_rates: Store<TaxRate>,
    /// Active and ended.
    pub discounts: Store<Discount>,
    /// With their items.
    pub subscriptions: Store<Subscription>,
    /// Active and ended.
    pub subscription_schedules: Store<Schedule>,
    /// With their lines.
    pub invoices: Store<Invoice>,
    /// The latest previews, kept so that their lines can be paged.
    pub previews: VecDeque<Invoice>,
    /// Pending or invoiced.
    pub invoice_items: Store<InvoiceItem>,
    /// Each belongs to an invoice.
    pub payment_intents: Store<PaymentIntent>,
    /// Including failed ones.
    pub charges: Store<Charge>,
    pub refunds: Store<Refund>,
    pub setup_intents: Store<SetupIntent>,
    pub disputes: Store<Dispute>,
    /// Of every status.
    pub checkout_sessions: Store<Session>,
    pub portal_configurations: Store<Configuration>,
    /// By the token in their address.
    pub portal_sessions: Store<billing_portal::Session>,
    pub meters: Store<Meter>,
    /// By identifier.
    pub meter_events: Store<MeterEvent>,
    pub thin_events: Store<ThinEvent>,
    pub endpoints: Store<WebhookEndpoint>,
    /// Oldest first.
    pub events: Store<Event>,
    pub test_clocks: Store<TestClock>,
    /// Deliveries that the sender has not picked up yet.
    pub outbox: Vec<Delivery>,
    /// The first response for each idempotency key.
    pub idempotency: IdempotencyStore,
    /// The idempotency keys of requests that are under way.
    pub keys_in_use: BTreeSet<String>,
    /// Injected faults.
    pub faults: Vec<Fault>,
}

impl State {
    /// The state of an empty account.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            ids: IdSource::new(config.seed),
            request_ids: IdSource::new(!config.seed),
            wall_secs: 0,
            origin: Origin::default(),
            customers: Store::default(),
            customer_balance_transactions: Store::default(),
            payment_methods: Store::default(),
            products: Store::default(),
            prices: Store::default(),
            coupons: Store::default(),
            promotion_codes: Store::default(),
            tax_rates: automatic::rates(),
            discounts: Store::default(),
            subscriptions: Store::default(),
            subscription_schedules: Store::default(),
            invoices: Store::default(),
            previews: VecDeque::new(),
            invoice_items: Store::default(),
            payment_intents: Store::default(),
            charges: Store::default(),
            refunds: Store::default(),
            setup_intents: Store::default(),
            disputes: Store::default(),
            checkout_sessions: Store::default(),
            portal_configurations: Store::default(),
            portal_sessions: Store::default(),
            meters: Store::default(),
            meter_events: Store::default(),
            thin_events: Store::default(),
            endpoints: Store::default(),
            events: Store::default(),
            test_clocks: Store::default(),
            outbox: Vec::new(),
            idempotency: IdempotencyStore::default(),
            keys_in_use: BTreeSet::new(),
            faults: Vec::new(),
            config,
        }
    }

    /// The time on a test clock, or the wall clock time if there is none.
    #[must_use]
    pub fn time_on(&self, clock: Option<&str>) -> i64 {
        clock
            .and_then(|id| self.test_clocks.get(id))
            .map_or(self.wall_secs, |clock| clock.frozen_secs)
    }

    /// The current time of a customer.
    #[must_use]
    pub fn now_for(&self, customer: &str) -> i64 {
        self.time_on(
            self.customers
                .get(customer)
                .and_then(|customer| customer.test_clock.as_deref()),
        )
    }

    /// The customer with this id, unless deleted.
    pub fn customer(&self, id: &str, param: &str) -> Result<&Customer, ApiError> {
        self.customers
            .get(id)
            .filter(|customer| !customer.deleted)
            .ok_or_else(|| ApiError::no_such("customer", id, param))
    }

    pub fn subscription(&self, id: &str, param: &str) -> Result<&Subscription, ApiError> {
        self.subscriptions
            .get(id)
            .ok_or_else(|| ApiError::no_such("subscription", id, param))
    }

    pub fn subscription_mut(&mut self, id: &str) -> Result<&mut Subscription, ApiError> {
        self.subscriptions
            .get_mut(id)
            .ok_or_else(|| ApiError::no_such("subscription", id, "id"))
    }

    pub fn invoice(&self, id: &str) -> Result<&Invoice, ApiError> {
        self.invoices
            .get(id)
            .ok_or_else(|| ApiError::no_such("invoice", id, "id"))
    }

    pub fn invoice_mut(&mut self, id: &str) -> Result<&mut Invoice, ApiError> {
        self.invoices
            .get_mut(id)
            .ok_or_else(|| ApiError::no_such("invoice", id, "id"))
    }

    /// The products, the prices and who buys them.
    #[must_use]
    pub const fn catalogue(&self) -> Catalogue<'_> {
        Catalogue {
            prices: &self.prices,
            products: &self.products,
            customers: &self.customers,
            tax_rates: &self.tax_rates,
        }
    }

    /// The API object with this id, of any type.
    #[must_use]
    pub fn render(&self, id: &str, shape: Shape) -> Option<Value> {
        if let Some(customer) = self.customers.get(id) {
            return Some(customer.render(self, shape));
        }
        if let Some(subscription) = self.subscriptions.get(id) {
            return Some(subscription.render(self, shape));
        }
        if let Some(invoice) = self.invoices.get(id) {
            return Some(invoice.render(self, shape));
        }
        if let Some(schedule) = self.subscription_schedules.get(id) {
            return Some(schedule.render(self, shape));
        }
        self.render_payment(id, shape)
            .or_else(|| self.render_catalogue(id, shape))
            .or_else(|| self.render_administration(id))
    }

    fn render_payment(&self, id: &str, shape: Shape) -> Option<Value> {
        if let Some(method) = self.payment_methods.get(id) {
            return Some(method.render());
        }
        if let Some(intent) = self.payment_intents.get(id) {
            return Some(intent.render(self, shape));
        }
        if let Some(charge) = self.charges.get(id) {
            return Some(charge.render(self, shape));
        }
        if let Some(item) = self.invoice_items.get(id) {
            return Some(item.render(self, shape));
        }
        if let Some(refund) = self.refunds.get(id) {
            return Some(refund.render());
        }
        if let Some(dispute) = self.disputes.get(id) {
            return Some(dispute.render());
        }
        if let Some(intent) = self.setup_intents.get(id) {
            return Some(intent.render());
        }
        if let Some(transaction) = balance_transactions::render(self, id) {
            return Some(transaction);
        }
        self.customer_balance_transactions
            .get(id)
            .map(CustomerBalanceTransaction::render)
    }

    fn render_catalogue(&self, id: &str, shape: Shape) -> Option<Value> {
        if let Some(product) = self.products.get(id) {
            return Some(product.render());
        }
        if let Some(price) = self.prices.get(id) {
            return Some(price.render(shape));
        }
        if let Some(rate) = self.tax_rates.get(id) {
            return Some(rate.render());
        }
        if let Some(coupon) = self.coupons.get(id) {
            return Some(coupon.render(self.wall_secs));
        }
        if let Some(promotion) = self.promotion_codes.get(id) {
            return Some(promotion.render(self, shape));
        }
        if let Some(discount) = self.discounts.get(id) {
            return Some(discount.render(self, shape));
        }
        self.meters.get(id).map(Meter::render)
    }

    fn render_administration(&self, id: &str) -> Option<Value> {
        if let Some(clock) = self.test_clocks.get(id) {
            return Some(clock.render());
        }
        if let Some(session) = self.checkout_sessions.get(id) {
            return Some(session.render());
        }
        if let Some(configuration) = self.portal_configurations.get(id) {
            return Some(configuration.render());
        }
        if let Some(endpoint) = self.endpoints.get(id) {
            return Some(endpoint.render());
        }
        self.events.get(id).map(|event| event.render(self))
    }
}
