// The calls to valuecanvas-billing. The service key stays on the server, and each request names
// its customer by the product's own id.

/** An answer that is not 2xx: `code` says what it is, `message` says it to people. */
export class BillingError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `billing answered ${status}`);
    Object.assign(this, { status, code: problem.code, problem });
  }
}

export function billing({ url, key }) {
  async function send(method, path, { customer, body, idempotencyKey } = {}) {
    const headers = { authorization: `Bearer ${key}` };
    if (customer) headers['x-organization'] = customer;
    if (idempotencyKey) headers['idempotency-key'] = idempotencyKey;
    if (body !== undefined) headers['content-type'] = 'application/json';
    const answer = await fetch(`${url}${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(40_000),
    });
    const json = answer.status === 204 ? null : await answer.json().catch(() => ({}));
    if (!answer.ok) throw new BillingError(answer.status, json);
    return json;
  }

  return {
    signUp: (customer, body) => send('PUT', `/api/organizations/${encodeURIComponent(customer)}`, { body }),
    plans: (customer) => send('GET', '/api/billing/plans', { customer }),
    state: (customer) => send('GET', '/api/billing/state', { customer }),
    checkout: (customer, body) => send('POST', '/api/billing/checkout', { customer, body }),
    completeCheckout: (customer, id) =>
      send('POST', `/api/billing/checkout/${encodeURIComponent(id)}/complete`, { customer }),
    preview: (customer, body) => send('POST', '/api/billing/subscription/preview', { customer, body }),
    change: (customer, body, idempotencyKey) =>
      send('PUT', '/api/billing/subscription', { customer, body, idempotencyKey }),
    cancel: (customer, body) => send('DELETE', '/api/billing/subscription', { customer, body }),
    reactivate: (customer) => send('POST', '/api/billing/subscription/reactivate', { customer }),
    check: (customer, body) => send('POST', '/api/billing/usage/check', { customer, body }),
    report: (customer, events) => send('POST', '/api/billing/usage/events', { customer, body: events }),
    invoices: (customer) => send('GET', '/api/billing/invoices', { customer }),
    cards: (customer) => send('GET', '/api/billing/payment-methods', { customer }),
    addCard: (customer, body) => send('POST', '/api/billing/payment-methods/setup', { customer, body }),
    portal: (customer, body) => send('POST', '/api/billing/portal', { customer, body }),
    chargeCard: (customer, id) =>
      send('PUT', `/api/billing/payment-methods/${encodeURIComponent(id)}/default`, { customer }),
  };
}
