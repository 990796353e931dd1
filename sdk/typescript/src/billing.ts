// The client: one for a process.

import { BillingError } from "./errors.js";
import { newId } from "./ids.js";
import { Breaker, Metering, type Decision, type OnUnavailable } from "./metering.js";
import { OrganizationBilling, type CallOptions, type PageOptions } from "./organization.js";
import { UsageQueue, type EventStorage, type LostEvent, type QueueOptions, type QueueStats } from "./queue.js";
import { States, type StateOptions } from "./state.js";
import { Transport, type Answer, type Call, type Method, type RetryOptions } from "./transport.js";
import type { NewOrganization, Organization, OrganizationPatch, Page } from "./types.js";

export interface BillingOptions {
  /** Where the service is. */
  url: string;
  /** A service key, an organization's key or a user's token; a function where it changes. Keys belong on servers. */
  key: string | (() => string | Promise<string>);
  /** What `check` and `reserve` answer while the service cannot be reached. `deny` if it is left out. */
  onUnavailable?: OnUnavailable;
  /** How long `check` and `reserve` may take with all of their attempts. */
  checkTimeoutMs?: number;
  /** How long an attempt of another call may take: the service itself gives up after 30 s. */
  timeoutMs?: number;
  retry?: Partial<RetryOptions>;
  queue?: Partial<QueueOptions>;
  /** Where tracked events wait besides in memory. */
  storage?: EventStorage;
  state?: Partial<StateOptions>;
  /** An event that will not be counted. If it is left out: a line of `console.error`. */
  onLost?: (lost: LostEvent) => void;
  /** What begins to fail in the background. If it is left out: a line of `console.warn`. */
  onError?: (error: unknown, what: "usage" | "storage" | "state") => void;
  /** A use that was allowed because nobody could decide. */
  onAllowed?: (decision: Decision) => void;
  fetch?: typeof fetch;
}

export interface BillingStats extends QueueStats {
  /** Uses that were allowed because nobody could decide. */
  allowedUnavailable: number;
}

const RETRY: RetryOptions = { attempts: 3, minDelayMs: 200, maxDelayMs: 10_000 };
const QUEUE: QueueOptions = {
  maxEvents: 10_000,
  maxBytes: 16 * 1024 * 1024,
  flushIntervalMs: 1_000,
  flushAt: 100,
  batchEvents: 500,
  maxPauseMs: 30_000,
};
const STATE: StateOptions = { mode: "poll", maxPolls: 100, idleMs: 60_000, maxStaleMs: 60_000, waitSeconds: 25 };

export class Billing {
  readonly organizations: Organizations;
  readonly #transport: Transport;
  readonly #queue: UsageQueue;
  readonly #states: States;
  readonly #metering: (organization: string | undefined) => Metering;
  readonly #key: BillingOptions["key"];
  #allowed = 0;

  constructor(options: BillingOptions) {
    checkOptions(options);
    const { url, key, onUnavailable = "deny" } = options;
    const onLost = options.onLost ?? ((lost) => console.error("billing: usage is lost:", JSON.stringify(lost)));
    const onError = options.onError ?? ((error, what) => console.warn(`billing: ${what}: ${String(error)}`));
    this.#key = key;
    const transport = new Transport({
      url,
      headers: async () => ({ authorization: `Bearer ${typeof key === "function" ? await key() : key}` }),
      // Not as a method: browsers' own needs no `this`.
      fetch: options.fetch ?? ((input, init) => fetch(input, init)),
      timeoutMs: options.timeoutMs ?? 35_000,
      retry: { ...RETRY, ...options.retry },
    });
    const stop = new AbortController();
    const queue = new UsageQueue(
      { ...QUEUE, ...options.queue },
      transport.retry,
      {
        send: async (rawBody) => {
          const path = "/api/billing/usage/events";
          const call: Call = { method: "POST", path, rawBody, signal: stop.signal, timeoutMs: 15_000 };
          const answer = await transport.call<{ results: [] }>(call);
          return answer.body?.results;
        },
        confirm: (event) => confirmAgain(transport, event.organization, event.id, event.quantity, stop.signal),
        stop: () => stop.abort(),
        onLost,
        onError,
      },
      options.storage,
    );
    const states = new States({ transport, options: { ...STATE, ...options.state }, onUnavailable, onError });
    const parts = {
      transport,
      queue,
      breaker: new Breaker(),
      onUnavailable,
      checkTimeoutMs: options.checkTimeoutMs ?? 3_000,
      allowed: (decision: Decision) => {
        this.#allowed += 1;
        options.onAllowed?.(decision);
      },
    };
    this.#transport = transport;
    this.#queue = queue;
    this.#states = states;
    this.#metering = (organization) => new Metering(parts, organization);
    this.organizations = new Organizations(transport);
  }

  /** The calls of one customer: with a service key, of the one that `id` names. */
  organization(id?: string): OrganizationBilling {
    const key = this.#key;
    if (typeof key === "string") {
      if (key.startsWith("vcp_") && id === undefined) {
        throw new TypeError("organization: a service key needs the id of an organization");
      }
      if (/^vc[ks]_/.test(key) && id !== undefined) {
        throw new TypeError("organization: this key is an organization's own, and cannot name another");
      }
    }
    if (id !== undefined && (typeof id !== "string" || id.length === 0 || id.length > 255)) {
      throw new TypeError("organization: expected an id of 1 to 255 characters");
    }
    return new OrganizationBilling(id, this.#transport, this.#metering(id), () => this.#states.of(id));
  }

  /** Tracked events that wait to be sent. */
  get pending(): number {
    return this.#queue.length;
  }

  stats(): BillingStats {
    return { ...this.#queue.stats, allowedUnavailable: this.#allowed };
  }

  /** Sends what was tracked. Resolves with how many events still wait: 0, if all went well. */
  flush(): Promise<number> {
    return this.#queue.flush();
  }

  /** Ends the polls, and sends what was tracked. Resolves with how many events could not be sent. */
  async close(options: { timeoutMs?: number } = {}): Promise<number> {
    this.#states.close();
    return this.#queue.close(options.timeoutMs ?? 10_000);
  }

  /** Any route of the API, with the same attempts, keys and errors. */
  async request<T = unknown>(
    method: Method,
    path: string,
    options: Pick<Call, "organization" | "query" | "body" | "signal" | "idempotencyKey" | "timeoutMs" | "headers"> = {},
  ): Promise<T> {
    return (await this.#transport.call<T>({ ...keyed(method, options.idempotencyKey), ...options, method, path })).body;
  }

  /** The same with status and headers, for a handler that passes them on. */
  async requestRaw(call: Call & { changes: boolean }): Promise<Answer> {
    try {
      return await this.#transport.call(call);
    } finally {
      if (call.changes) this.#states.of(call.organization).expire();
    }
  }
}

/** Customers, for a service key with `organizations.manage`. */
export class Organizations {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Makes it, or brings it to what `body` says. */
  put(id: string, body: NewOrganization, options: CallOptions = {}): Promise<Organization> {
    return this.#call("PUT", id, options, body);
  }

  get(id: string, options: CallOptions = {}): Promise<Organization> {
    return this.#call("GET", id, options);
  }

  patch(id: string, body: OrganizationPatch, options: CallOptions = {}): Promise<Organization> {
    return this.#call("PATCH", id, options, body);
  }

  archive(id: string, options: CallOptions = {}): Promise<Organization> {
    return this.#call("DELETE", id, options);
  }

  async list(options: PageOptions & { query?: string } = {}): Promise<Page<Organization>> {
    const { query, limit, cursor, signal } = options;
    const call: Call = { method: "GET", path: "/api/organizations", query: { query, limit, cursor }, signal };
    return (await this.#transport.call<Page<Organization>>(call)).body;
  }

  async #call(method: Method, id: string, options: CallOptions, body?: unknown): Promise<Organization> {
    const path = `/api/organizations/${encodeURIComponent(id)}`;
    const key = keyed(method, options.idempotencyKey);
    return (await this.#transport.call<Organization>({ ...key, method, path, body, signal: options.signal })).body;
  }
}

/** All but reads have a key, so that each attempt is the same request. */
function keyed(method: Method, key?: string): { idempotencyKey?: string } {
  return method === "GET" ? {} : { idempotencyKey: key ?? newId() };
}

const REFUSED = new Set([404, 409, 410, 422]);

/** Whether a reservation's use is counted: the same confirmation has the same answer. */
async function confirmAgain(
  transport: Transport,
  organization: string | undefined,
  id: string,
  quantity: string,
  signal: AbortSignal,
): Promise<boolean> {
  const path = `/api/billing/usage/reservations/${encodeURIComponent(id)}/confirm`;
  try {
    await transport.call({ method: "POST", path, organization, body: { quantity }, accept: [402], signal, timeoutMs: 15_000 });
    return true;
  } catch (error) {
    // Only the service's own word says that it is not counted.
    if (error instanceof BillingError && REFUSED.has(error.status) && !error.code.startsWith("http_")) return false;
    throw error;
  }
}

function checkOptions(options: BillingOptions): void {
  const { url, key, onUnavailable } = options;
  if (typeof url !== "string" || !/^https?:\/\/[^/]/.test(url)) {
    throw new TypeError("url: expected the address of the billing service, such as https://billing.example.com");
  }
  if (typeof key !== "function" && (typeof key !== "string" || key.trim() === "")) {
    throw new TypeError("key: expected a service key, an organization's key or a token");
  }
  if (onUnavailable !== undefined && onUnavailable !== "allow" && onUnavailable !== "deny") {
    throw new TypeError(`onUnavailable: expected "allow" or "deny", got ${JSON.stringify(onUnavailable)}`);
  }
}
