// Events from valuecanvas-billing: verified, each taken once, and told to the customer. The state
// itself the product has from `state()`; events are for acting on what happened, such as a mail.

import { verifyWebhook } from '@valuecanvas/billing';

const TEXTS = {
  'plan.changed': ({ plan }) => `Your plan is now ${plan.tier}.`,
  'invoice.paid': ({ invoice }) => `Invoice ${invoice.number} is paid.`,
  'invoice.payment_failed': ({ invoice }) => `Invoice ${invoice.number} could not be paid.`,
};

/** What customers are told. A Set and a Map stand for the product's database. */
export class Mailbox {
  #secret;
  #taken = new Set();
  #news = new Map();

  constructor(secret) {
    this.#secret = secret;
  }

  /** Whether the message is billing's. It comes at least once: what is known is taken, and nothing is done. */
  async take(body, headers) {
    const event = await verifyWebhook(body, headers, this.#secret).catch(() => null);
    if (event && !this.#taken.has(event.id)) {
      this.#taken.add(event.id);
      const told = TEXTS[event.type]?.(event.data);
      if (told) this.#news.set(event.subject, [...this.of(event.subject), told]);
    }
    return event !== null;
  }

  of(customer) {
    return this.#news.get(customer) ?? [];
  }
}
