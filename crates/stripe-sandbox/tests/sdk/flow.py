"""Drives the sandbox with the official Python SDK; only the host differs.

Usage: python flow.py BASE_URL; prints "ok" on success. It requests
an API version before 2025-03-31.basil, so it sees the older shape.
"""

import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer

import stripe

OLD = "2023-10-16"
DAY = 86_400


def seconds(*parts):
    return int(datetime(*parts, tzinfo=timezone.utc).timestamp())


def client(base, version=OLD, key="sk_test_python"):
    return stripe.StripeClient(
        key, base_addresses={"api": base}, stripe_version=version, max_network_retries=0
    )


def expect(error, action):
    try:
        action()
    except error as caught:
        return caught
    raise AssertionError(f"expected {error.__name__}")


def make_price(api, amount, key):
    product = api.v1.products.create({"name": key})
    return api.v1.prices.create(
        {
            "product": product.id,
            "currency": "usd",
            "unit_amount": amount,
            "lookup_key": key,
            "recurring": {"interval": "month"},
        }
    )


def trial_dunning_and_cancellation(api):
    price = make_price(api, 2_000, "python_plan")
    start = seconds(2026, 3, 1)
    clock = api.v1.test_helpers.test_clocks.create({"frozen_time": start})
    customer = api.v1.customers.create({"test_clock": clock.id})
    method = api.v1.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer.id})
    api.v1.customers.update(
        customer.id, {"invoice_settings": {"default_payment_method": method.id}}
    )
    subscription = api.v1.subscriptions.create(
        {"customer": customer.id, "items": [{"price": price.id}], "trial_period_days": 14}
    )
    assert subscription.status == "trialing", subscription.status
    assert subscription.current_period_end == start + 14 * DAY

    def advance(to):
        api.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": to})
        return api.v1.subscriptions.retrieve(subscription.id)

    ended = advance(start + 14 * DAY + 2 * 3_600)
    assert ended.status == "past_due", ended.status
    invoice = api.v1.invoices.retrieve(ended.latest_invoice)
    assert invoice.subscription == subscription.id
    assert invoice.attempt_count == 1 and not invoice.paid
    charge = api.v1.charges.retrieve(invoice.charge)
    assert charge.invoice == invoice.id and charge.failure_code == "card_declined"
    # Three, five and seven days later the retries have failed as well.
    assert advance(start + 36 * DAY).status == "canceled"
    invoice = api.v1.invoices.retrieve(invoice.id)
    assert invoice.attempt_count == 4, invoice.attempt_count
    types = [event.type for event in api.v1.events.list({"limit": 100}).auto_paging_iter()]
    assert types.count("charge.failed") == 4
    assert "customer.subscription.trial_will_end" in types
    assert "customer.subscription.deleted" in types


def upcoming_invoice(base):
    api = client(base)
    price = make_price(api, 1_000, "python_upcoming")
    customer = api.v1.customers.create({})
    method = api.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    subscription = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id, "quantity": 3}],
            "default_payment_method": method.id,
        }
    )
    assert subscription.status == "active"
    upcoming = api.raw_request("get", "/v1/invoices/upcoming", customer=customer.id)
    assert upcoming.data["amount_due"] == 3_000, upcoming.data["amount_due"]
    new = client(base, version="2026-10-28.endive")
    expect(
        stripe.InvalidRequestError,
        lambda: new.raw_request("get", "/v1/invoices/upcoming", customer=customer.id),
    )
    detached = api.v1.payment_methods.detach(method.id)
    assert detached.customer is None


def refunds_disputes_and_drafts(api):
    price = make_price(api, 1_000, "python_refunds")

    def paid_with(card):
        customer = api.v1.customers.create(
            {"payment_method": card, "invoice_settings": {"default_payment_method": card}}
        )
        api.v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
        return customer, api.v1.charges.list({"customer": customer.id}).data[0]

    customer, charge = paid_with("pm_card_visa")
    refund = api.v1.refunds.create(
        {"charge": charge.id, "amount": 400, "expand": ["balance_transaction"]}
    )
    assert refund.balance_transaction.net == -400
    api.v1.refunds.create({"charge": charge.id})
    again = expect(
        stripe.InvalidRequestError, lambda: api.v1.refunds.create({"charge": charge.id})
    )
    assert again.code == "charge_already_refunded"
    assert len(api.v1.refunds.list({"charge": charge.id}).data) == 2
    _, disputed = paid_with("pm_card_createDispute")
    dispute = api.v1.disputes.list({"charge": disputed.id}).data[0]
    assert api.v1.disputes.close(dispute.id).status == "lost"

    for amount in (300, 200):
        api.v1.invoice_items.create(
            {"customer": customer.id, "amount": amount, "currency": "usd"}
        )
    draft = api.v1.invoices.create(
        {"customer": customer.id, "pending_invoice_items_behavior": "include"}
    )
    assert [line.amount for line in draft.lines.data] == [200, 300]
    assert api.v1.invoices.delete(draft.id).deleted
    gone = expect(stripe.InvalidRequestError, lambda: api.v1.invoices.retrieve(draft.id))
    assert gone.http_status == 404 and gone.param == "invoice"
    pending = api.v1.invoice_items.list({"customer": customer.id, "pending": True})
    assert not pending.data


def trials_without_a_card(api):
    price = make_price(api, 1_000, "python_trials")
    customer = api.v1.customers.create({})

    def trial(end):
        return api.v1.subscriptions.create(
            {
                "customer": customer.id,
                "items": [{"price": price.id}],
                "trial_period_days": 7,
                "trial_settings": {"end_behavior": {"missing_payment_method": end}},
            }
        )

    for end, status in (("pause", "paused"), ("cancel", "canceled")):
        subscription = trial(end)
        assert api.v1.setup_intents.retrieve(subscription.pending_setup_intent).id
        ended = api.v1.subscriptions.update(subscription.id, {"trial_end": "now"})
        assert ended.status == status, ended.status
    bare = trial("create_invoice")
    assert bare.billing_mode.type == "classic" and bare.current_period_end
    refused = expect(
        stripe.InvalidRequestError,
        lambda: api.v1.subscriptions.update(bare.id, {"trial_end": "now"}),
    )
    assert refused.code == "resource_missing"
    searched = expect(
        stripe.InvalidRequestError,
        lambda: api.v1.customers.search({"query": "email:'a@example.com'"}),
    )
    assert searched.code == "sandbox_unsupported"


def scheduled_cancellation(api):
    price = make_price(api, 1_000, "python_schedules")
    customer = api.v1.customers.create({})
    method = api.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    subscription = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_payment_method": method.id,
        }
    )
    schedule = api.v1.subscription_schedules.create({"from_subscription": subscription.id})
    assert schedule.phases[0].coupon is None and schedule.billing_mode.type == "classic"
    schedule = api.v1.subscription_schedules.update(schedule.id, {"end_behavior": "cancel"})
    subscription = api.v1.subscriptions.retrieve(subscription.id)
    assert subscription.cancel_at == schedule.phases[0].end_date
    listed = api.v1.subscription_schedules.list({"customer": customer.id})
    assert [one.id for one in listed.auto_paging_iter()] == [schedule.id]
    assert api.v1.subscription_schedules.cancel(schedule.id).status == "canceled"
    assert api.v1.subscriptions.retrieve(subscription.id).status == "canceled"


def customer_discount(api):
    price = make_price(api, 1_000, "python_discounts")
    coupon = api.v1.coupons.create({"percent_off": 12.5, "duration": "forever"})
    code = api.raw_request("post", "/v1/promotion_codes", coupon=coupon.id, code="PYTHON")
    assert code.data["coupon"]["percent_off"] == 12.5
    customer = api.v1.customers.create({})
    method = api.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    api.raw_request("post", f"/v1/customers/{customer.id}", promotion_code=code.data["id"])
    subscription = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id, "quantity": 3}],
            "default_payment_method": method.id,
            "expand": ["latest_invoice"],
        }
    )
    invoice = subscription.latest_invoice
    assert (invoice.subtotal, invoice.total) == (3_000, 2_625), invoice.total
    assert invoice.discount.coupon.id == coupon.id and not subscription.discounts


def included_tax(api):
    price = make_price(api, 1_200, "python_taxes")
    rate = api.v1.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": True})
    customer = api.v1.customers.create({})
    method = api.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    subscription = api.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_payment_method": method.id,
            "default_tax_rates": [rate.id],
            "expand": ["latest_invoice"],
        }
    )
    invoice = subscription.latest_invoice
    assert (invoice.total, invoice.tax, invoice.total_excluding_tax) == (1_200, 200, 1_000)
    assert invoice.lines.data[0].tax_rates[0].id == rate.id


def errors(base):
    api = client(base)
    unknown = expect(stripe.InvalidRequestError, lambda: api.v1.customers.create({"shape": "round"}))
    assert unknown.code == "parameter_unknown" and unknown.param == "shape"
    declined = expect(
        stripe.CardError,
        lambda: api.v1.customers.create({"payment_method": "pm_card_chargeDeclinedInsufficientFunds"}),
    )
    assert declined.error.decline_code == "insufficient_funds"
    expect(stripe.AuthenticationError, lambda: client(base, key="nonsense").v1.customers.list())


def signed_events(api):
    received = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((body, self.headers["stripe-signature"]))
            self.send_response(200)
            self.end_headers()
            done.set()

        def log_message(self, *_):
            pass

    done = threading.Event()
    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = api.v1.webhook_endpoints.create(
        {
            "url": f"http://127.0.0.1:{server.server_port}/hook",
            "enabled_events": ["product.created"],
            "api_version": OLD,
        }
    )
    api.v1.products.create({"name": "Announced"})
    assert done.wait(5), "no delivery"
    server.shutdown()
    body, signature = received[0]
    event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
    assert event.api_version == OLD and event.data.object.name == "Announced"
    expect(
        stripe.SignatureVerificationError,
        lambda: stripe.Webhook.construct_event(body + b" ", signature, endpoint.secret),
    )
    api.v1.webhook_endpoints.delete(endpoint.id)


def checkout_and_portal(api):
    price = make_price(api, 1_000, "python_checkout")
    customer = api.v1.customers.create({})
    session = api.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer.id,
            "line_items": [{"price": price.id, "quantity": 2}],
            "success_url": "https://app.test/ok",
        }
    )
    assert session.amount_total == 2_000, session.amount_total
    form = urllib.parse.urlencode({"action": "pay", "number": "4242424242424242"}).encode()
    try:
        urllib.request.build_opener(NoRedirects).open(session.url, form)
        raise AssertionError("the page redirects")
    except urllib.error.HTTPError as answer:
        assert answer.headers["location"] == "https://app.test/ok", answer.headers
    done = api.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
    assert done.payment_status == "paid" and done.subscription.status == "active"
    intent = api.v1.setup_intents.create({"customer": customer.id})
    assert api.v1.setup_intents.cancel(intent.id).status == "canceled"
    features = {"subscription_cancel": {"enabled": False}}
    configuration = api.v1.billing_portal.configurations.create({"features": features})
    portal = api.v1.billing_portal.sessions.create(
        {"customer": customer.id, "configuration": configuration.id}
    )
    assert portal.url


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def main():
    base = sys.argv[1]
    api = client(base)
    trial_dunning_and_cancellation(api)
    upcoming_invoice(base)
    refunds_disputes_and_drafts(api)
    trials_without_a_card(api)
    checkout_and_portal(api)
    scheduled_cancellation(api)
    customer_discount(api)
    included_tax(api)
    errors(base)
    signed_events(api)
    print("ok")


main()
