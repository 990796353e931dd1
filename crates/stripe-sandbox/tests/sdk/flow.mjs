// Drives the sandbox with the official Node SDK; only the host differs.
// Usage: node flow.mjs HOST PORT; prints "ok" on success.
import assert from 'node:assert/strict';
import http from 'node:http';
import Stripe from 'stripe';

const [host, port] = process.argv.slice(2);
const options = {host, port: Number(port), protocol: 'http', telemetry: false};
const stripe = new Stripe('sk_test_node', {...options, maxNetworkRetries: 0});

const START = Date.UTC(2026, 0, 31, 10) / 1000;
const DAY = 86_400;

async function catalogue() {
  const product = await stripe.products.create({name: 'Standard', metadata: {tier: 'standard'}});
  const price = (unit_amount, lookup_key) =>
    stripe.prices.create({
      product: product.id,
      currency: 'usd',
      unit_amount,
      lookup_key,
      recurring: {interval: 'month'},
    });
  const [small, large] = [await price(1000, 'node_small'), await price(2500, 'node_large')];
  const found = await stripe.prices.list({lookup_keys: ['node_large'], expand: ['data.product']});
  assert.equal(found.data[0].id, large.id);
  assert.equal(found.data[0].product.name, 'Standard');
  assert.equal(found.data[0].unit_amount_decimal.toString(), '2500');
  return {small, large};
}

async function customerOnClock(card) {
  const clock = await stripe.testHelpers.testClocks.create({frozen_time: START});
  const customer = await stripe.customers.create({
    email: 'node@example.com',
    test_clock: clock.id,
    payment_method: card,
    invoice_settings: {default_payment_method: card},
  });
  return {clock, customer};
}

async function upgradeAndRenewal({small, large}) {
  const {clock, customer} = await customerOnClock('pm_card_visa');
  const subscription = await stripe.subscriptions.create({
    customer: customer.id,
    items: [{price: small.id}],
    expand: ['latest_invoice.payments'],
  });
  assert.equal(subscription.status, 'active');
  assert.equal(subscription.latest_invoice.amount_paid, 1000);
  const [payment] = subscription.latest_invoice.payments.data;
  const intent = await stripe.paymentIntents.retrieve(payment.payment.payment_intent);
  assert.equal(intent.status, 'succeeded');
  const item = subscription.items.data[0];
  assert.equal(item.current_period_end, Date.UTC(2026, 1, 28, 10) / 1000);

  await advance(clock, START + 10 * DAY);
  const change = {
    items: [{id: item.id, price: large.id}],
    proration_behavior: 'always_invoice',
    proration_date: START + 10 * DAY,
  };
  const preview = await stripe.invoices.createPreview({
    customer: customer.id,
    subscription: subscription.id,
    subscription_details: change,
  });
  assert.equal(preview.lines.data.length, 2);
  const updated = await stripe.subscriptions.update(subscription.id, {...change, expand: ['latest_invoice']});
  assert.equal(updated.latest_invoice.total, preview.total);
  assert.equal(updated.latest_invoice.status, 'paid');
  assert.equal(updated.items.data[0].price.id, large.id);

  const next = await stripe.invoices.createPreview({subscription: subscription.id});
  await advance(clock, Date.UTC(2026, 1, 28, 12) / 1000);
  const invoices = await stripe.invoices.list({subscription: subscription.id, limit: 2});
  assert.equal(invoices.data[0].billing_reason, 'subscription_cycle');
  assert.equal(invoices.data[0].status, 'paid');
  assert.equal(invoices.data[0].total, next.total);
  const ids = [];
  for await (const invoice of stripe.invoices.list({subscription: subscription.id, limit: 1})) {
    ids.push(invoice.id);
  }
  assert.equal(ids.length, 3);
  const canceled = await stripe.subscriptions.cancel(subscription.id);
  assert.equal(canceled.status, 'canceled');
}

async function advance(clock, frozen_time) {
  await stripe.testHelpers.testClocks.advance(clock.id, {frozen_time});
  const {status} = await stripe.testHelpers.testClocks.retrieve(clock.id);
  assert.equal(status, 'ready');
}

async function declines({small}) {
  await assert.rejects(stripe.customers.create({payment_method: 'pm_card_chargeDeclined'}), (error) => {
    assert.ok(error instanceof Stripe.errors.StripeCardError);
    assert.equal(error.decline_code, 'generic_decline');
    assert.ok(error.requestId.startsWith('req_'));
    return true;
  });
  const {customer} = await customerOnClock('pm_card_chargeCustomerFail');
  const request = {customer: customer.id, items: [{price: small.id}]};
  await assert.rejects(
    stripe.subscriptions.create({...request, payment_behavior: 'error_if_incomplete'}),
    Stripe.errors.StripeCardError,
  );
  const incomplete = await stripe.subscriptions.create(request);
  assert.equal(incomplete.status, 'incomplete');
  await assert.rejects(stripe.customers.create({colour: 'red'}), {param: 'colour'});
  await assert.rejects(stripe.customers.retrieve('cus_none'), {code: 'resource_missing', statusCode: 404});
  const stranger = new Stripe('sk_live_wrong', options);
  await assert.rejects(stranger.customers.list(), Stripe.errors.StripeAuthenticationError);
}

async function idempotency() {
  const options = {idempotencyKey: 'node-key'};
  const first = await stripe.customers.create({name: 'Once'}, options);
  const second = await stripe.customers.create({name: 'Once'}, options);
  assert.equal(second.id, first.id);
  assert.equal(second.lastResponse.headers['idempotent-replayed'], 'true');
  await assert.rejects(
    stripe.customers.create({name: 'Twice'}, options),
    Stripe.errors.StripeIdempotencyError,
  );
}

async function meters() {
  const meter = await stripe.billing.meters.create({
    display_name: 'Tokens',
    event_name: 'node_tokens',
    default_aggregation: {formula: 'sum'},
  });
  const customer = await stripe.customers.create({});
  const event = {event_name: 'node_tokens', payload: {stripe_customer_id: customer.id, value: '25'}};
  await stripe.billing.meterEvents.create({...event, identifier: 'node-1'});
  await assert.rejects(stripe.billing.meterEvents.create({...event, identifier: 'node-1'}));
  const minute = Math.floor(Date.now() / 60_000) * 60;
  const summaries = await stripe.billing.meters.listEventSummaries(meter.id, {
    customer: customer.id,
    start_time: minute - 600,
    end_time: minute + 600,
  });
  assert.equal(summaries.data[0].aggregated_value, 25);
}

async function webhooks() {
  const received = [];
  const server = http.createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      received.push({body: Buffer.concat(chunks), signature: request.headers['stripe-signature']});
      response.writeHead(200).end();
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const endpoint = await stripe.webhookEndpoints.create({
    url: `http://127.0.0.1:${server.address().port}/hook`,
    enabled_events: ['customer.created', 'customer.updated'],
  });
  const customer = await stripe.customers.create({name: 'Before'});
  await stripe.customers.update(customer.id, {name: 'After'});
  for (let waited = 0; received.length < 2 && waited < 5_000; waited += 20) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  server.close();
  const events = received.map(({body, signature}) =>
    stripe.webhooks.constructEvent(body, signature, endpoint.secret),
  );
  const update = events.find((event) => event.type === 'customer.updated');
  assert.deepEqual(update.data.previous_attributes, {name: 'Before'});
  assert.equal(update.data.object.name, 'After');
  const listed = await stripe.events.list({types: ['customer.updated'], limit: 1});
  assert.equal(listed.data[0].id, update.id);
  await stripe.webhookEndpoints.del(endpoint.id);
}

async function refundsAndDisputes({small}) {
  const {customer} = await customerOnClock('pm_card_visa');
  await stripe.subscriptions.create({customer: customer.id, items: [{price: small.id}]});
  const {data: [charge]} = await stripe.charges.list({customer: customer.id, expand: ['data.balance_transaction']});
  assert.equal(charge.balance_transaction.net, 1000);
  const part = await stripe.refunds.create({charge: charge.id, amount: 400, reason: 'requested_by_customer'});
  assert.equal(part.status, 'succeeded');
  await assert.rejects(stripe.refunds.create({charge: charge.id, amount: 601}), {param: 'amount'});
  await stripe.refunds.create({payment_intent: charge.payment_intent});
  assert.equal((await stripe.charges.retrieve(charge.id)).refunded, true);
  await assert.rejects(stripe.refunds.create({charge: charge.id}), {code: 'charge_already_refunded'});

  const {customer: disputing} = await customerOnClock('pm_card_createDispute');
  await stripe.subscriptions.create({customer: disputing.id, items: [{price: small.id}]});
  const {data: [disputed]} = await stripe.charges.list({customer: disputing.id});
  const {data: [dispute]} = await stripe.disputes.list({charge: disputed.id});
  assert.equal(dispute.status, 'needs_response');
  assert.equal((await stripe.disputes.close(dispute.id)).status, 'lost');
  assert.equal((await stripe.charges.retrieve(disputed.id)).disputed, true);
}

async function drafts({small}) {
  const {clock, customer} = await customerOnClock('pm_card_visa');
  const product = await stripe.products.create({name: 'Hours'});
  await stripe.invoiceItems.create({
    customer: customer.id,
    quantity: 3,
    price_data: {currency: 'usd', product: product.id, unit_amount_decimal: '33.5'},
  });
  await stripe.invoiceItems.create({customer: customer.id, amount: 700, currency: 'usd'});
  const draft = await stripe.invoices.create({customer: customer.id, pending_invoice_items_behavior: 'include'});
  assert.deepEqual(draft.lines.data.map((line) => line.amount), [700, 101]);
  assert.equal((await stripe.invoices.del(draft.id)).deleted, true);
  await assert.rejects(stripe.invoices.retrieve(draft.id), {param: 'invoice', statusCode: 404});
  await assert.rejects(stripe.invoices.sendInvoice(draft.id), {param: 'invoice', statusCode: 404});
  const pending = await stripe.invoiceItems.list({customer: customer.id, pending: true});
  assert.equal(pending.data.length, 0);

  const subscription = await stripe.subscriptions.create({customer: customer.id, items: [{price: small.id}]});
  await advance(clock, Date.UTC(2026, 1, 28, 10) / 1000 + 60);
  const {latest_invoice: renewal} = await stripe.subscriptions.retrieve(subscription.id, {expand: ['latest_invoice']});
  assert.equal(renewal.status, 'draft');
  await assert.rejects(stripe.invoices.del(renewal.id), {statusCode: 400});
}

async function trialsAndPauses({small, large}) {
  const clock = await stripe.testHelpers.testClocks.create({frozen_time: START});
  const customer = await stripe.customers.create({test_clock: clock.id});
  const trial = (missing_payment_method) =>
    stripe.subscriptions.create({
      customer: customer.id,
      items: [{price: small.id}],
      trial_period_days: 7,
      trial_settings: {end_behavior: {missing_payment_method}},
    });
  const strict = await trial('create_invoice');
  await assert.rejects(stripe.subscriptions.update(strict.id, {trial_end: 'now'}), {code: 'resource_missing'});
  const left = await trial('cancel');
  assert.equal((await stripe.subscriptions.update(left.id, {trial_end: 'now'})).status, 'canceled');
  const paused = await trial('pause');
  const intent = await stripe.setupIntents.retrieve(paused.pending_setup_intent);
  assert.equal(intent.status, 'requires_payment_method');
  assert.equal((await stripe.subscriptions.update(paused.id, {trial_end: 'now'})).status, 'paused');
  await stripe.setupIntents.confirm(intent.id, {payment_method: 'pm_card_visa'});
  const resumed = await stripe.subscriptions.resume(paused.id, {billing_cycle_anchor: 'now'});
  assert.equal(resumed.status, 'active');

  const poor = await stripe.paymentMethods.attach('pm_card_chargeCustomerFail', {customer: customer.id});
  await stripe.subscriptions.update(paused.id, {default_payment_method: poor.id});
  const waiting = await stripe.subscriptions.update(paused.id, {
    items: [{id: resumed.items.data[0].id, price: large.id}],
    proration_behavior: 'always_invoice',
    payment_behavior: 'pending_if_incomplete',
    metadata: {plan: 'large'},
  });
  assert.deepEqual(waiting.pending_update.metadata, {plan: 'large'});
  assert.equal(waiting.metadata.plan, undefined);
  assert.equal(waiting.pending_update.subscription_items[0].price.id, large.id);
  assert.equal(waiting.items.data[0].price.id, small.id);
  const rich = await stripe.paymentMethods.attach('pm_card_visa', {customer: customer.id});
  await stripe.invoices.pay(waiting.latest_invoice, {payment_method: rich.id});
  const changed = await stripe.subscriptions.retrieve(paused.id);
  assert.equal(changed.items.data[0].price.id, large.id);
  assert.equal(changed.metadata.plan, 'large');
  const types = (await stripe.events.list({limit: 100})).data.map((event) => event.type);
  for (const type of ['paused', 'resumed', 'pending_update_applied']) {
    assert.ok(types.includes(`customer.subscription.${type}`), type);
  }
}

async function currencies() {
  const product = await stripe.products.create({name: 'Seat'});
  const price = (currency, interval, unit_amount) =>
    stripe.prices.create({product: product.id, currency, unit_amount, recurring: {interval}});
  const [euro, dollar] = [await price('eur', 'year', 12_000), await price('usd', 'month', 1_000)];
  const {customer} = await customerOnClock('pm_card_visa');
  const subscription = await stripe.subscriptions.create({
    customer: customer.id,
    items: [{price: euro.id, quantity: 5}],
    expand: ['latest_invoice'],
  });
  assert.equal(subscription.latest_invoice.total, 60_000);
  assert.equal(subscription.latest_invoice.currency, 'eur');
  const item = subscription.items.data[0].id;
  await assert.rejects(stripe.subscriptions.update(subscription.id, {items: [{id: item, price: dollar.id}]}), {
    message: 'The price specified only supports `usd`. This doesn\'t match the expected currency: `eur`.',
  });
  const seats = await stripe.subscriptionItems.update(item, {quantity: 7});
  assert.equal(seats.quantity, 7);
  await assert.rejects(
    stripe.subscriptions.create({customer: customer.id, items: [{price: dollar.id}]}),
    /cannot combine currencies on a single customer/,
  );
}

async function schedules({small, large}) {
  const {clock, customer} = await customerOnClock('pm_card_visa');
  const subscription = await stripe.subscriptions.create({customer: customer.id, items: [{price: large.id}]});
  const schedule = await stripe.subscriptionSchedules.create({from_subscription: subscription.id});
  const [current] = schedule.phases;
  const updated = await stripe.subscriptionSchedules.update(schedule.id, {
    end_behavior: 'release',
    phases: [
      {
        items: current.items.map(({price, quantity}) => ({price, quantity})),
        start_date: current.start_date,
        end_date: current.end_date,
      },
      {items: [{price: small.id, quantity: 1}], duration: {interval: 'month', interval_count: 1}},
    ],
    expand: ['subscription', 'phases.items.price'],
  });
  assert.equal(updated.subscription.schedule, schedule.id);
  assert.equal(updated.phases[1].items[0].price.unit_amount, 1000);
  await assert.rejects(
    stripe.subscriptions.update(subscription.id, {cancel_at_period_end: true}),
    /managed by the subscription schedule/,
  );
  await advance(clock, current.end_date + 7_200);
  const changed = await stripe.subscriptions.retrieve(subscription.id, {expand: ['latest_invoice']});
  assert.equal(changed.items.data[0].price.id, small.id);
  assert.equal(changed.latest_invoice.total, 1000);
  const released = await stripe.subscriptionSchedules.release(schedule.id);
  assert.equal(released.status, 'released');
  assert.equal(released.released_subscription, subscription.id);
}

async function discounts({small}) {
  const coupon = await stripe.coupons.create({percent_off: 25, duration: 'repeating', duration_in_months: 3});
  const code = await stripe.promotionCodes.create({
    promotion: {type: 'coupon', coupon: coupon.id},
    code: 'NODE25',
    expand: ['promotion.coupon'],
  });
  assert.equal(code.promotion.coupon.percent_off, 25);
  const {customer} = await customerOnClock('pm_card_visa');
  const preview = await stripe.invoices.createPreview({
    customer: customer.id,
    subscription_details: {items: [{price: small.id}]},
    discounts: [{promotion_code: code.id}],
  });
  const subscription = await stripe.subscriptions.create({
    customer: customer.id,
    items: [{price: small.id}],
    discounts: [{promotion_code: code.id}],
    expand: ['latest_invoice.total_discount_amounts.discount', 'discounts.source.coupon'],
  });
  const invoice = subscription.latest_invoice;
  assert.deepEqual([invoice.subtotal, invoice.total, preview.total], [1000, 750, 750]);
  assert.equal(invoice.total_discount_amounts[0].discount.promotion_code, code.id);
  assert.equal(subscription.discounts[0].source.coupon.id, coupon.id);
  assert.equal((await stripe.subscriptions.deleteDiscount(subscription.id)).deleted, true);
  await assert.rejects(
    stripe.subscriptions.update(subscription.id, {discounts: [{promotion_code: 'promo_none'}]}),
    {message: "No such promotion code: 'promo_none'", code: 'resource_missing'},
  );
}

async function taxes({small}) {
  const rate = await stripe.taxRates.create({display_name: 'GST', percentage: 8.875, inclusive: false});
  assert.equal(rate.percentage, 8.875);
  const {customer} = await customerOnClock('pm_card_visa');
  const taxed = await stripe.subscriptions.create({
    customer: customer.id,
    items: [{price: small.id, tax_rates: [rate.id]}],
    expand: ['latest_invoice.total_taxes.tax_rate_details.tax_rate'],
  });
  assert.equal(taxed.latest_invoice.total, 1089);
  assert.equal(taxed.latest_invoice.total_taxes[0].tax_rate_details.tax_rate.display_name, 'GST');
  const automatic = {customer: customer.id, items: [{price: small.id}], automatic_tax: {enabled: true}};
  await assert.rejects(stripe.subscriptions.create(automatic), {code: 'customer_tax_location_invalid'});
  await stripe.customers.update(customer.id, {address: {country: 'FR'}});
  const french = await stripe.subscriptions.create({...automatic, expand: ['latest_invoice']});
  assert.equal(french.latest_invoice.total, 1200);
  assert.equal(french.latest_invoice.automatic_tax.status, 'complete');
}

async function refusals() {
  for (const resource of ['charges', 'customers', 'invoices', 'paymentIntents', 'prices', 'products', 'subscriptions']) {
    await assert.rejects(stripe[resource].search({query: "created>0"}), {code: 'sandbox_unsupported', param: 'query'});
  }
  await assert.rejects(
    stripe.paymentMethods.create({type: 'sepa_debit', sepa_debit: {iban: 'DE89370400440532013000'}}),
    {code: 'sandbox_unsupported', param: 'type'},
  );
  const customer = await stripe.customers.create({});
  await assert.rejects(
    stripe.paymentMethods.attach('pm_none', {customer: customer.id}),
    {param: 'payment_method', statusCode: 404},
  );
  const expanded = await stripe.customers.retrieve(customer.id, {
    expand: ['tax', 'invoice_credit_balance', 'sources'],
  });
  assert.equal(expanded.sources.data.length, 0);
}

async function checkout(price) {
  const customer = await stripe.customers.create({});
  const session = await stripe.checkout.sessions.create({
    mode: 'subscription',
    customer: customer.id,
    line_items: [{price, quantity: 1}],
    success_url: 'https://app.test/ok?s={CHECKOUT_SESSION_ID}',
    cancel_url: 'https://app.test/back',
    subscription_data: {trial_period_days: 7, metadata: {order: '7'}},
  });
  assert.equal(session.status, 'open');
  const page = await fetch(session.url, {
    method: 'POST',
    body: new URLSearchParams({action: 'pay', number: '4242424242424242'}),
    redirect: 'manual',
  });
  assert.equal(page.headers.get('location'), `https://app.test/ok?s=${session.id}`);
  const done = await stripe.checkout.sessions.retrieve(session.id, {expand: ['subscription']});
  assert.equal(done.status, 'complete');
  assert.equal(done.subscription.status, 'trialing');
  const items = await stripe.checkout.sessions.listLineItems(session.id);
  assert.equal(items.data[0].price.id, price);
  const other = await stripe.checkout.sessions.create({
    mode: 'setup',
    customer: customer.id,
    payment_method_types: ['card'],
    success_url: 'https://app.test/cards',
  });
  assert.equal((await stripe.checkout.sessions.expire(other.id)).status, 'expired');
  const intent = await stripe.setupIntents.create({customer: customer.id, usage: 'off_session'});
  const saved = await stripe.setupIntents.confirm(intent.id, {payment_method: 'pm_card_visa'});
  assert.equal(saved.status, 'succeeded');
  const configuration = await stripe.billingPortal.configurations.create({
    features: {invoice_history: {enabled: true}, subscription_cancel: {enabled: false}},
  });
  const portal = await stripe.billingPortal.sessions.create({
    customer: customer.id,
    configuration: configuration.id,
    return_url: 'https://app.test',
  });
  assert.match(portal.url, /\/p\/session\//);
}

const prices = await catalogue();
await upgradeAndRenewal(prices);
await declines(prices);
await refundsAndDisputes(prices);
await drafts(prices);
await trialsAndPauses(prices);
await checkout(prices.small.id);
await currencies();
await schedules(prices);
await discounts(prices);
await taxes(prices);
await refusals();
await idempotency();
await meters();
await webhooks();
console.log('ok');
