// The state of an organization, kept fresh by a request that waits for the next one.

import { BillingError } from "./errors.js";
import { comesLater, sleep, type Transport } from "./transport.js";
import type { OrganizationState } from "./types.js";
import type { OnUnavailable } from "./metering.js";

export interface StateOptions {
  /**
   * `poll`: a request waits for each change, so that `state()` asks nobody. `ask`: each `state()` asks whether
   * it has changed, for runtimes in which nothing outlives a request.
   */
  mode: "poll" | "ask";
  /** How many organizations are polled at a time; others are asked about. */
  maxPolls: number;
  /** How long an organization is polled that nobody asks about. */
  idleMs: number;
  /** A state that was not confirmed for so long is read again. */
  maxStaleMs: number;
  /** How long the service holds a poll, in seconds; at most 30. */
  waitSeconds: number;
}

export type StateListener = (state: OrganizationState) => void;
export type ErrorListener = (error: BillingError) => void;

interface Parts {
  transport: Transport;
  options: StateOptions;
  onUnavailable: OnUnavailable;
  onError(error: unknown, what: "state"): void;
}

interface Kept {
  state: OrganizationState;
  tag: string | undefined;
  confirmedAt: number;
}

const PATH = "/api/billing/state";

/** States of the organizations that were asked about. */
export class States {
  readonly #parts: Parts;
  readonly #of = new Map<string | undefined, StateCache>();
  polls = 0;
  readonly stop = new AbortController();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  of(organization: string | undefined): StateCache {
    let found = this.#of.get(organization);
    if (found) {
      // Those asked about last come last.
      this.#of.delete(organization);
    } else {
      for (const [name, cache] of this.#of) {
        if (this.#of.size < 2_000) break;
        if (!cache.polling) this.#of.delete(name);
      }
      found = new StateCache(this.#parts, this, organization);
    }
    this.#of.set(organization, found);
    return found;
  }

  close(): void {
    this.stop.abort();
  }
}

export class StateCache {
  readonly #parts: Parts;
  readonly #all: States;
  readonly #organization: string | undefined;
  #kept: Kept | undefined;
  #reading: Promise<OrganizationState> | undefined;
  #askedAt = 0;
  /** Raised by changes of ours: what is read meanwhile may be older than they are. */
  #changes = 0;
  #failures = 0;
  /** The service has no room for a poll of ours now: until it has, each `state()` asks. */
  #refused = false;
  readonly #listeners = new Set<StateListener>();
  readonly #errors = new Set<ErrorListener>();
  polling = false;

  constructor(parts: Parts, all: States, organization: string | undefined) {
    this.#parts = parts;
    this.#all = all;
    this.#organization = organization;
  }

  async get(): Promise<OrganizationState> {
    this.#askedAt = Date.now();
    // One that begins now knows nothing of what was changed before.
    const { polling } = this;
    this.#poll();
    const kept = this.#kept;
    const { maxStaleMs } = this.#parts.options;
    if (kept && polling && !this.#refused && Date.now() - kept.confirmedAt <= maxStaleMs) return kept.state;
    try {
      return await this.#read();
    } catch (error) {
      const known = this.#kept;
      const unavailable = error instanceof BillingError && (error.unavailable || error.status === 429);
      if (known && unavailable && this.#parts.onUnavailable === "allow") return known.state;
      throw error;
    }
  }

  /** What is known was changed by this client: the next one who asks reads it. */
  expire(): void {
    this.#changes += 1;
    this.#reading = undefined;
    if (this.#kept) this.#kept.confirmedAt = -Infinity;
  }

  watch(listener: StateListener, onError?: ErrorListener): () => void {
    this.#listeners.add(listener);
    if (onError) this.#errors.add(onError);
    if (this.#kept) listener(this.#kept.state);
    this.#poll();
    return () => {
      this.#listeners.delete(listener);
      if (onError) this.#errors.delete(onError);
    };
  }

  /** Reads it, once for all that ask meanwhile. */
  #read(): Promise<OrganizationState> {
    this.#reading ??= this.#readOnce().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #readOnce(): Promise<OrganizationState> {
    const changes = this.#changes;
    const { tag, state: known } = this.#kept ?? {};
    const answer = await this.#parts.transport.call<OrganizationState>({
      method: "GET",
      path: PATH,
      organization: this.#organization,
      ...(tag === undefined ? {} : { headers: { "if-none-match": tag } }),
      accept: [304],
      timeoutMs: 10_000,
      deadlineMs: 15_000,
    });
    const fresh = changes === this.#changes;
    if (answer.status === 304 && this.#kept) {
      if (fresh) this.#kept.confirmedAt = Date.now();
      return this.#kept.state;
    }
    this.#keep(answer.body, answer.headers.get("etag") ?? undefined, fresh, known?.stateVersion);
    return answer.body;
  }

  /** `asked`: the version that was known when it was asked for. */
  #keep(state: OrganizationState, tag: string | undefined, fresh: boolean, asked?: number): void {
    const before = this.#kept?.state;
    // Another read was faster. Else versions go back only where a backup was restored.
    if (before && state.stateVersion < before.stateVersion && before.stateVersion !== asked) return;
    this.#kept = { state, tag, confirmedAt: fresh ? Date.now() : -Infinity };
    if (before && JSON.stringify(before) === JSON.stringify(state)) return;
    for (const listener of this.#listeners) {
      try {
        listener(state);
      } catch (error) {
        console.error("billing: a listener of the state failed", error);
      }
    }
  }

  #poll(): void {
    const { mode, maxPolls } = this.#parts.options;
    const watched = this.#listeners.size > 0;
    if (this.polling || this.#all.stop.signal.aborted || (mode === "ask" && !watched)) return;
    if (this.#all.polls >= maxPolls && !watched) return;
    this.polling = true;
    this.#all.polls += 1;
    void this.#loop().finally(() => {
      this.polling = false;
      this.#all.polls -= 1;
    });
  }

  async #loop(): Promise<void> {
    const { signal } = this.#all.stop;
    const { idleMs } = this.#parts.options;
    while (!signal.aborted && (this.#listeners.size > 0 || Date.now() - this.#askedAt < idleMs)) {
      const began = Date.now();
      try {
        const news = this.#kept ? await this.#wait(this.#kept.state.stateVersion, signal) : await this.#read();
        this.#failures = 0;
        if (news === "later") continue;
        // A service that is asked to wait by too many answers at once.
        if (!news && Date.now() - began < 1_000) await sleep(1_000 + Math.random() * 2_000, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof BillingError)) throw error;
        await this.#failed(error, signal).catch(() => undefined);
      }
    }
  }

  /** Whether there was news; `later`: the service had no room for the poll, and was asked instead. */
  async #wait(after: number, signal: AbortSignal): Promise<boolean | "later"> {
    const { transport, options } = this.#parts;
    const changes = this.#changes;
    try {
      const answer = await transport.call<OrganizationState>({
        method: "GET",
        path: PATH,
        organization: this.#organization,
        query: { after, wait: options.waitSeconds },
        signal,
        attempts: 1,
        timeoutMs: options.waitSeconds * 1_000 + 10_000,
      });
      if (answer.status === 200) this.#keep(answer.body, answer.headers.get("etag") ?? undefined, changes === this.#changes, after);
      else if (this.#kept && changes === this.#changes) this.#kept.confirmedAt = Date.now();
      this.#refused = false;
      return answer.status === 200;
    } catch (error) {
      if (comesLater(error)) {
        this.#refused = true;
        // Whatever comes of the polls, what is known is what holds.
        await this.#read();
        await sleep(Math.max(error.retryAfterMs, 1_000) * (1 + Math.random() / 2), signal);
        return "later";
      }
      // The database is an older one, as after a backup was restored.
      if (!(error instanceof BillingError) || error.code !== "unknown_state_version") throw error;
      this.#kept = undefined;
      return true;
    }
  }

  async #failed(error: BillingError, signal: AbortSignal): Promise<void> {
    this.#failures += 1;
    // What a listener throws must not take the pause away.
    try {
      if (this.#failures === 1) this.#parts.onError(error, "state");
      for (const listener of this.#errors) listener(error);
    } catch {
      // It is the product's own.
    }
    const grown = Math.min(500 * 2 ** (this.#failures - 1), 30_000);
    await sleep(Math.max(error.retryAfterMs ?? 0, grown * (0.5 + Math.random() / 2)), signal);
  }
}
