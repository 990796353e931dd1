// Digest, a small product that summarizes texts and is paid by the month and seat.
//
// It shows how a product uses valuecanvas-billing: each route below is one thing that
// docs/integration.md explains. Customers are kept in a Map, and a cookie is their log-in:
// your product has its own for both.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

import { Billing, isBillingError, requiresAction } from '@valuecanvas/billing';

import { Mailbox } from './events.js';
import * as pages from './pages.js';

const { BILLING_URL, BILLING_KEY, BILLING_EVENTS_SECRET, PORT = '3000' } = process.env;
if (!BILLING_URL || !BILLING_KEY || !BILLING_EVENTS_SECRET) {
  console.error('Set BILLING_URL, BILLING_KEY (a service key) and BILLING_EVENTS_SECRET: docs/integration.md');
  process.exit(2);
}
const billing = new Billing({ url: BILLING_URL, key: BILLING_KEY });
const mailbox = new Mailbox(BILLING_EVENTS_SECRET);
const customers = new Map();

// Each route gets the customer who is logged in, `bill`, which is billing for that customer, the
// fields of the form or the query, and where the product is.
const routes = {
  'GET /': () => show(pages.signUp()),

  // Sign-up: the customer's id is ours. Sent again, the request makes nothing twice.
  'POST /sign-up': async ({ field }) => {
    const customer = { id: `digest-${randomUUID()}`, company: field('company'), teammates: 1 };
    await billing.organizations.put(customer.id, { name: customer.company, email: field('email') });
    customers.set(customer.id, customer);
    return { ...goTo('/account'), cookie: customer.id };
  },

  'GET /account': ({ customer }) => account(customer),

  // Checkout: the payer goes to Stripe's page, and comes back to /welcome.
  'POST /subscribe': async ({ bill, field, origin }) => {
    const checkout = await bill.checkout({
      planTier: field('plan'),
      quantity: Number(field('seats')),
      successUrl: `${origin}/welcome?checkout={CHECKOUT_SESSION_ID}`,
      cancelUrl: `${origin}/account`,
    });
    return goTo(checkout.url);
  },

  // Back from Stripe's page: who paid has the plan now, before any webhook.
  'GET /welcome': async ({ bill, customer, field }) => {
    const { done } = await bill.completeCheckout(field('checkout'));
    return done ? goTo('/account') : account(customer, { problem: 'Your bank has not answered yet.' });
  },

  // An expensive call: asked for before the work, counted with it, and refused over the quota.
  'POST /summaries': async ({ bill, customer, field }) => {
    const text = field('text');
    const { features } = await bill.state(); // kept fresh: this asks nobody
    if (text.length > 2_000 && !features.long_texts) {
      return account(customer, { problem: 'Long texts are part of the Business plan.' });
    }
    const { allowed, detail } = await bill.check('summaries', 1, { consume: true });
    if (!allowed) return account(customer, { problem: detail });
    const summary = summarize(text);
    // What it used is known afterwards. This returns at once, and is sent with others.
    bill.track('words', text.split(/\s+/).filter(Boolean).length);
    return account(customer, { summary });
  },

  // A seat is a level: as many as there are teammates, and no more than were bought.
  'POST /teammates': async ({ bill, customer }) => {
    const { allowed, detail } = await bill.check('seats', customer.teammates + 1, { consume: true });
    if (!allowed) return account(customer, { problem: detail });
    customer.teammates += 1;
    return goTo('/account');
  },

  // A change of plan or seats: first its price, with a token that binds it …
  'POST /change': async ({ bill, field }) => {
    const shown = await bill.preview({ planTier: field('plan'), quantity: Number(field('seats')) });
    return show(pages.preview({ shown, key: randomUUID() }));
  },

  // … then the change, which costs what was shown. Where the bank asks its cardholder, the
  // same request is sent again, with the same key, when they have answered.
  'POST /change/confirm': async ({ bill, field }) => {
    const [plan, token, key] = ['plan', 'token', 'key'].map(field);
    const done = await bill.changePlan({ planTier: plan, previewToken: token }, { idempotencyKey: key });
    if (!requiresAction(done)) return goTo('/account');
    return show(pages.confirmPayment({ next: done.nextAction, plan, token, key }));
  },

  // Cards are entered on Stripe's page; which one is charged is chosen here.
  'POST /cards': async ({ bill, origin }) => {
    const page = await bill.setUpPaymentMethod({ mode: 'page', returnUrl: `${origin}/account` });
    return goTo(page.url);
  },
  'POST /cards/default': async ({ bill, field }) => {
    await bill.setDefaultPaymentMethod(field('card'));
    return goTo('/account');
  },

  // Invoices, addresses and tax ids are Stripe's own pages, which show nothing that billing
  // must know first.
  'POST /portal': async ({ bill, origin }) => {
    const portal = await bill.portal({ returnUrl: `${origin}/account` });
    return goTo(portal.url);
  },

  // The plan stays until the end of what is paid for, and the customer may stay after all.
  'POST /cancel': async ({ bill }) => {
    await bill.cancel({ reason: 'canceled on the account page' });
    return goTo('/account');
  },
  'POST /stay': async ({ bill }) => {
    await bill.reactivate();
    return goTo('/account');
  },

  // What changed, told by billing.
  'POST /billing-events': async ({ request, body }) =>
    (await mailbox.take(body, request.headers)) ? { status: 204 } : { status: 400 },
};

async function account(customer, { problem, summary } = {}) {
  const bill = billing.organization(customer.id);
  const [state, plans, cards, invoices] = await Promise.all([
    bill.state(),
    bill.plans(),
    bill.paymentMethods(),
    bill.invoices(),
  ]);
  const openInvoice = invoices.data.find((one) => one.status === 'open');
  const news = mailbox.of(customer.id);
  return show(pages.account({ customer, state, plans, cards: cards.data, openInvoice, news, summary, problem }));
}

/** The work that is sold. Yours is more expensive. */
const summarize = (text) => `${text.split(/(?<=[.!?])\s/)[0].slice(0, 200)} …`;

const show = (page, status = 200) => ({ status, page });
const goTo = (location) => ({ status: 303, location });

async function answer(request) {
  const origin = `http://${request.headers.host}`;
  const { pathname, searchParams } = new URL(request.url, origin);
  const route = routes[`${request.method} ${pathname}`];
  if (!route) return show('not found', 404);
  const body = await text(request);
  const fields = request.method === 'POST' ? new URLSearchParams(body) : searchParams;
  const field = (name) => fields.get(name) ?? '';
  const customer = customers.get(/customer=([^;]+)/.exec(request.headers.cookie ?? '')?.[1]);
  const isOpen = ['/', '/sign-up', '/billing-events'].includes(pathname);
  if (!customer && !isOpen) return goTo('/');
  const bill = customer && billing.organization(customer.id);
  try {
    return await route({ request, origin, body, field, customer, bill });
  } catch (error) {
    // Billing's refusals are for people: "this card was declined", "the plan is your plan already".
    if (!isBillingError(error) || error.status === 0 || error.status >= 500) throw error;
    return customer ? account(customer, { problem: error.detail }) : show(pages.signUp(error.detail), 422);
  }
}

async function text(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

const server = createServer(async (request, response) => {
  const { status, page, location, cookie } = await answer(request).catch((error) => {
    console.error(error);
    return show('Something went wrong. Nothing was charged twice: try again.', 500);
  });
  if (location) response.setHeader('location', location);
  if (cookie) response.setHeader('set-cookie', `customer=${cookie}; HttpOnly; SameSite=Lax; Path=/`);
  response.setHeader('content-type', 'text/html; charset=utf-8');
  response.writeHead(status).end(page);
});
server.listen(Number(PORT), '127.0.0.1', () => {
  console.log(`Digest listens on http://127.0.0.1:${server.address().port}`);
});

// What was tracked and not sent yet is sent before the process ends.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await billing.close();
    process.exit();
  });
}
