// What a page knows of its customer, for all components that look at it.

import { BillingError } from "../errors.js";
import { newId } from "../ids.js";
import { comesLater, sleep, Transport, type Call } from "../transport.js";
import type {
  ActionRequired,
  Checkout,
  CompletedCheckout,
  GracePeriod,
  NewCheckout,
  NewSubscription,
  OrganizationState,
  Page,
  Plan,
  PlanChange,
  Preview,
  PreviewRequest,
  Subscription,
  Usage,
} from "../types.js";

export interface BillingClientOptions {
  /** Where `createBillingHandler` is served; or `https://…/api/billing` of the service, with a token of the user's. */
  baseUrl?: string;
  /** Headers of each request, such as a user's own token. Never a service key: whoever sees the page has it. */
  headers?: () => Record<string, string> | Promise<Record<string, string>>;
  fetch?: typeof fetch;
  /** How often usage is read; it also is when the state changes. */
  usageIntervalMs?: number;
}

export interface BillingSnapshot {
  state: OrganizationState | null;
  usage: readonly Usage[];
  plans: readonly Plan[];
  /** Those that run. */
  gracePeriods: readonly GracePeriod[];
  /** Until everything was read once. */
  loading: boolean;
  /** Why the last read failed; what was read before stays. */
  error: BillingError | null;
}

const EMPTY: BillingSnapshot = { state: null, usage: [], plans: [], gracePeriods: [], loading: true, error: null };

export class BillingClient {
  readonly #transport: Transport;
  readonly #intervalMs: number;
  readonly #listeners = new Set<() => void>();
  #snapshot = EMPTY;
  #stop: AbortController | undefined;
  #ending: ReturnType<typeof setTimeout> | undefined;

  constructor(options: BillingClientOptions = {}) {
    const { baseUrl = "/api/billing", headers = () => ({}), usageIntervalMs = 30_000 } = options;
    this.#intervalMs = usageIntervalMs;
    this.#transport = new Transport({
      url: baseUrl,
      headers: async () => checked(await headers()),
      fetch: options.fetch ?? ((input, init) => fetch(input, init)),
      timeoutMs: 35_000,
      retry: { attempts: 3, minDelayMs: 300, maxDelayMs: 10_000 },
      // Cookies are the product's own, and go to no other site.
      credentials: "same-origin",
    });
  }

  readonly getSnapshot = (): BillingSnapshot => this.#snapshot;

  /** Reads, and goes on doing so, while somebody listens. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    clearTimeout(this.#ending);
    if (!this.#stop) this.#start();
    return () => {
      this.#listeners.delete(listener);
      // The next page of the same application may listen in a moment.
      if (this.#listeners.size === 0) this.#ending = setTimeout(() => this.#end(), 1_000);
    };
  };

  /** Reads everything now. */
  async refresh(): Promise<void> {
    await this.#load(new AbortController().signal);
  }

  preview(body: PreviewRequest, signal?: AbortSignal): Promise<Preview> {
    return this.#send({ method: "POST", path: "/subscription/preview", body, signal });
  }

  subscribeTo(body: NewSubscription): Promise<Subscription | ActionRequired> {
    return this.#change({ method: "POST", path: "/subscription", body });
  }

  changePlan(body: PlanChange): Promise<Subscription | ActionRequired> {
    return this.#change({ method: "PUT", path: "/subscription", body });
  }

  cancel(how: { immediately?: boolean } = {}): Promise<Subscription> {
    const query = how.immediately ? { immediately: true } : {};
    return this.#change({ method: "DELETE", path: "/subscription", query });
  }

  reactivate(): Promise<Subscription> {
    return this.#change({ method: "POST", path: "/subscription/reactivate", body: undefined });
  }

  callOffPendingChange(): Promise<Subscription> {
    return this.#change({ method: "DELETE", path: "/subscription/pending-change" });
  }

  checkout(body: NewCheckout): Promise<Checkout> {
    return this.#change({ method: "POST", path: "/checkout", body });
  }

  completeCheckout(id: string): Promise<CompletedCheckout> {
    return this.#change({ method: "POST", path: `/checkout/${encodeURIComponent(id)}/complete` });
  }

  async #send<T>(call: Call): Promise<T> {
    const headers = { "content-type": "application/json" };
    return (await this.#transport.call<T>(call.method === "GET" ? call : { ...call, headers })).body;
  }

  async #change<T>(call: Call): Promise<T> {
    const answer = await this.#send<T>({ ...call, idempotencyKey: newId() });
    void this.refresh();
    return answer;
  }

  #set(change: Partial<BillingSnapshot>): void {
    this.#snapshot = { ...this.#snapshot, ...change };
    for (const listener of this.#listeners) listener();
  }

  #start(): void {
    const stop = (this.#stop = new AbortController());
    void this.#follow(stop.signal);
    void this.#meter(stop.signal);
  }

  #end(): void {
    this.#stop?.abort();
    this.#stop = undefined;
  }

  async #load(signal: AbortSignal): Promise<void> {
    try {
      const [state, plans] = await Promise.all([
        this.#get<OrganizationState>("/state", signal),
        this.#get<Page<Plan>>("/plans", signal, { limit: 100 }),
        this.#used(signal),
      ]);
      this.#set({ state, plans: plans.data, loading: false, error: null });
    } catch (error) {
      this.#failed(error, signal);
    }
  }

  async #used(signal: AbortSignal): Promise<void> {
    const [usage, graces] = await Promise.all([
      this.#get<Page<Usage>>("/usage", signal),
      this.#get<Page<GracePeriod>>("/grace-periods", signal, { active: true }),
    ]);
    this.#set({ usage: usage.data, gracePeriods: graces.data });
  }

  #failed(error: unknown, signal: AbortSignal): void {
    if (signal.aborted) return;
    if (!(error instanceof BillingError)) throw error;
    this.#set({ error, loading: false });
  }

  async #get<T>(path: string, signal: AbortSignal, query: Call["query"] = {}): Promise<T> {
    return (await this.#transport.call<T>({ method: "GET", path, query, signal })).body;
  }

  /** Waits for each change of the state, while the page is looked at. */
  async #follow(signal: AbortSignal): Promise<void> {
    let failures = 0;
    await this.#load(signal);
    while (!signal.aborted) {
      try {
        await visible(signal);
        const state = this.#snapshot.state;
        if (!state) await this.#load(signal);
        else if (await this.#changed(state.stateVersion, signal)) await this.#used(signal);
        if (this.#snapshot.error) throw this.#snapshot.error;
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        this.#failed(error, signal);
        failures += 1;
        const asked = error instanceof BillingError ? (error.retryAfterMs ?? 0) : 0;
        const pause = Math.max(asked, Math.min(1_000 * 2 ** (failures - 1), 60_000) * (0.5 + Math.random() / 2));
        await sleep(pause, signal).catch(() => undefined);
        // What was read before stays; the next read says whether it still fails.
        if (!signal.aborted) await this.#load(signal);
      }
    }
  }

  async #changed(after: number, signal: AbortSignal): Promise<boolean> {
    const began = Date.now();
    const call: Call = { method: "GET", path: "/state", query: { after, wait: 25 }, signal, attempts: 1 };
    const answer = await this.#transport.call<OrganizationState>(call).catch(async (error: unknown) => {
      // There is no room for one more that waits: it is asked, and waits again later.
      if (comesLater(error)) {
        await sleep(Math.max(error.retryAfterMs, 1_000) * (1 + Math.random() / 2), signal);
        return this.#transport.call<OrganizationState>({ method: "GET", path: "/state", signal });
      }
      // The service has an older database than before: what is known is no longer.
      if (!(error instanceof BillingError) || error.code !== "unknown_state_version") throw error;
      return this.#transport.call<OrganizationState>({ method: "GET", path: "/state", signal });
    });
    if (answer.status === 200) this.#set({ state: answer.body, error: null });
    // Too many wait at the service: it answers at once.
    else if (Date.now() - began < 1_000) await sleep(2_000 + Math.random() * 3_000, signal);
    return answer.status === 200;
  }

  async #meter(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await sleep(this.#intervalMs, signal);
        await visible(signal);
        await this.#used(signal);
      } catch (error) {
        this.#failed(error, signal);
      }
    }
  }
}

/** Resolves once the page is looked at: a tab in the background waits for nothing. */
async function visible(signal: AbortSignal): Promise<void> {
  while (typeof document !== "undefined" && document.visibilityState === "hidden" && !signal.aborted) {
    await new Promise<void>((resolve) => {
      const done = () => {
        document.removeEventListener("visibilitychange", done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      document.addEventListener("visibilitychange", done);
      signal.addEventListener("abort", done);
    });
  }
}

function checked(headers: Record<string, string>): Record<string, string> {
  for (const value of Object.values(headers)) {
    if (/\bvcp_/.test(value)) {
      throw new TypeError("a service key has no place in a page: whoever sees it acts for every customer");
    }
  }
  return headers;
}
