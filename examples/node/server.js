// Digest, a small product that summarizes texts and is paid by the month and seat.
//
// It shows how a product uses valuecanvas-billing: each route below is one thing that
// docs/integration.md explains. Customers are kept in a Map, and a cookie is their log-in:
// your product has its own for both.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

import { BillingError, billing } from './billing.js';
import { States, verified } from './events.js';
import * as pages from './pages.js';

const { BILLING_URL, BILLING_KEY, BILLING_EVENTS_SECRET, PORT = '3000' } = process.env;
if (!BILLING_URL || !BILLING_KEY || !BILLING_EVENTS_SECRET) {
  console.error('Set BILLING_URL, BILLING_KEY (a service key) and BILLING_EVENTS_SECRET: docs/integration.md');
  process.exit(2);
}
const bill = billing({ url: BILLING_URL, key: BILLING_KEY });
const customers = new Map();
const states = new States();

const routes = {
  'GET /': () => show(pages.signUp()),

  // Sign-up: the customer's id is ours. Sent again, the request makes nothing twice.
  'POST /sign-up': async ({ form }) => {
    const customer = { id: `digest-${randomUUID()}`, company: form.get('company'), teammates: 1 };
    await bill.signUp(customer.id, { name: customer.company, email: form.get('email') });
    customers.set(customer.id, customer);
    return { ...goTo('/account'), cookie: customer.id };
  },

  'GET /account': ({ customer }) => account(customer),

  // Checkout: the payer goes to Stripe's page, and comes back to /welcome.
  'POST /subscribe': async ({ customer, form, origin }) => {
    const checkout = await bill.checkout(customer.id, {
      planTier: form.get('plan'),
      quantity: Number(form.get('seats')),
      successUrl: `${origin}/welcome?checkout={CHECKOUT_SESSION_ID}`,
      cancelUrl: `${origin}/account`,
    });
    return goTo(checkout.url);
  },

  // Back from Stripe's page: who paid has the plan now, before any webhook.
  'GET /welcome': async ({ customer, query }) => {
    const done = await bill.completeCheckout(customer.id, query.get('checkout'));
    const waits = done.checkout.status !== 'complete';
    return waits ? account(customer, { problem: 'Your bank has not answered yet.' }) : goTo('/account');
  },

  // An expensive call: asked for before the work, counted with it, and refused over the quota.
  'POST /summaries': async ({ customer, form }) => {
    const text = form.get('text');
    const id = randomUUID();
    const known = states.of(customer.id) ?? (await bill.state(customer.id));
    const { long_texts: long } = known.features;
    if (text.length > 2_000 && !long) {
      return account(customer, { problem: 'Long texts are part of the Business plan.' });
    }
    await bill.check(customer.id, { id, metric: 'summaries', quantity: 1, consume: true });
    const summary = summarize(text);
    // What it used is known afterwards. With its id, a report that is sent twice counts once.
    const words = text.split(/\s+/).filter(Boolean).length;
    await bill.report(customer.id, [{ id: `${id}-words`, metric: 'words', quantity: words }]);
    return account(customer, { summary });
  },

  // A seat is a level: as many as there are teammates, and no more than were bought.
  'POST /teammates': async ({ customer }) => {
    const quantity = customer.teammates + 1;
    await bill.check(customer.id, { id: randomUUID(), metric: 'seats', quantity, consume: true });
    customer.teammates = quantity;
    return goTo('/account');
  },

  // A change of plan or seats: first its price, with a token that binds it …
  'POST /change': async ({ customer, form }) => {
    const wish = { planTier: form.get('plan'), quantity: Number(form.get('seats')) };
    const shown = await bill.preview(customer.id, wish);
    return show(pages.preview({ shown, key: randomUUID() }));
  },

  // … then the change, which costs what was shown. Where the bank asks its cardholder, the
  // same request is sent again, with the same key, when they have answered.
  'POST /change/confirm': async ({ customer, form }) => {
    const [plan, token, key] = ['plan', 'token', 'key'].map((name) => form.get(name));
    const done = await bill.change(customer.id, { planTier: plan, previewToken: token }, key);
    const next = done.nextAction;
    return next ? show(pages.confirmPayment({ next, plan, token, key })) : goTo('/account');
  },

  // Cards are entered on Stripe's page; which one is charged is chosen here.
  'POST /cards': async ({ customer, origin }) => {
    const page = await bill.addCard(customer.id, { mode: 'page', returnUrl: `${origin}/account` });
    return goTo(page.url);
  },
  'POST /cards/default': async ({ customer, form }) => {
    await bill.chargeCard(customer.id, form.get('card'));
    return goTo('/account');
  },

  // Invoices, addresses and tax ids are Stripe's own pages, which show nothing that billing
  // must know first.
  'POST /portal': async ({ customer, origin }) => {
    const portal = await bill.portal(customer.id, { returnUrl: `${origin}/account` });
    return goTo(portal.url);
  },

  // The plan stays until the end of what is paid for, and the customer may stay after all.
  'POST /cancel': async ({ customer }) => {
    await bill.cancel(customer.id, { reason: 'canceled on the account page' });
    return goTo('/account');
  },
  'POST /stay': async ({ customer }) => {
    await bill.reactivate(customer.id);
    return goTo('/account');
  },

  // What changed, told by billing: of each customer's states the newest is kept.
  'POST /billing-events': ({ request, body }) => {
    try {
      states.take(verified(BILLING_EVENTS_SECRET, request.headers, body));
    } catch {
      return { status: 400, page: '' };
    }
    return { status: 204 };
  },
};

/** The account page: the state is one read, which is never stale. */
async function account(customer, { problem, summary } = {}) {
  const [now, plans, cards, invoices] = await Promise.all([
    bill.state(customer.id),
    bill.plans(customer.id),
    bill.cards(customer.id),
    bill.invoices(customer.id),
  ]);
  const openInvoice = invoices.data.find((one) => one.status === 'open');
  return show(
    pages.account({ customer, state: now, plans: plans.data, cards: cards.data, openInvoice, summary, problem }),
  );
}

/** The work that is sold. Yours is more expensive. */
const summarize = (text) => `${text.split(/(?<=[.!?])\s/)[0].slice(0, 200)} …`;

const show = (page, status = 200) => ({ status, page });
const goTo = (location) => ({ status: 303, location });

async function answer(request) {
  const origin = `http://${request.headers.host}`;
  const { pathname, searchParams: query } = new URL(request.url, origin);
  const route = routes[`${request.method} ${pathname}`];
  if (!route) return show('not found', 404);
  const body = await text(request);
  const customer = customers.get(/customer=([^;]+)/.exec(request.headers.cookie ?? '')?.[1]);
  const isOpen = ['/', '/sign-up', '/billing-events'].includes(pathname);
  if (!customer && !isOpen) return goTo('/');
  try {
    return await route({ request, origin, query, body, customer, form: new URLSearchParams(body) });
  } catch (error) {
    // Billing's refusals are for people: "this card was declined", "the quota is used up".
    if (!(error instanceof BillingError) || error.status >= 500) throw error;
    return customer ? account(customer, { problem: error.message }) : show(pages.signUp(error.message), 422);
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
