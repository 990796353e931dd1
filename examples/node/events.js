// Events from valuecanvas-billing: verified, taken once, and of states the newest.

import { createHmac, timingSafeEqual } from 'node:crypto';

/** Throws unless `body` was signed with `secret` within the last five minutes. */
export function verified(secret, headers, body) {
  const { 'webhook-id': id, 'webhook-timestamp': sent, 'webhook-signature': signatures = '' } = headers;
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const right = createHmac('sha256', key).update(`${id}.${sent}.${body}`).digest();
  const isRight = signatures.split(' ').some((one) => {
    const given = Buffer.from(one.replace(/^v1,/, ''), 'base64');
    return given.length === right.length && timingSafeEqual(given, right);
  });
  const isFresh = Math.abs(Date.now() / 1000 - Number(sent)) < 300;
  if (!isRight || !isFresh) throw new Error('this was not signed by billing, or long ago');
  return JSON.parse(body);
}

/** What the product keeps of the events. A Map stands for its database. */
export class States {
  #newest = new Map();

  /** Keeps a state if it is newer than the one that is there. Says whether it was. */
  take(event) {
    if (event.type !== 'organization.state_changed') return false;
    const known = this.#newest.get(event.subject);
    if (known && known.sequence >= event.sequence) return false;
    this.#newest.set(event.subject, { sequence: event.sequence, state: event.data });
    return true;
  }

  of(customer) {
    return this.#newest.get(customer)?.state;
  }
}
