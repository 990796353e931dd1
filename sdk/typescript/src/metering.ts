// Asking before a use, holding for it, and what becomes of both while there is no service.

import { BillingError } from "./errors.js";
import { newId } from "./ids.js";
import { exact } from "./quantity.js";
import type { UsageEvent, UsageQueue } from "./queue.js";
import type { Answer, Transport } from "./transport.js";

/** What a use that could not be asked about is. */
export type OnUnavailable = "allow" | "deny";

export interface Decision {
  allowed: boolean;
  metric: string;
  /** The id under which the use is counted, with `consume`. */
  id: string | undefined;
  /** What is used of the period's quota; null if that is not known. */
  usage: number | null;
  /** Null: unlimited, or not known. */
  limit: number | null;
  remaining: number | null;
  percentage: number | null;
  gracePeriod: { startedAt: string; expiresAt: string } | null;
  /** Why it is not allowed: `QUOTA_EXCEEDED`, `QUOTA_EXCEEDED_GRACE_EXPIRED`, or why nobody decided. */
  code: string | null;
  detail: string | null;
  /** Allowed, and over the quota. */
  warning: boolean;
  /** The id had been counted before this call. */
  duplicate: boolean;
  graceMax: number | null;
  /** `unavailable`: nobody decided, and `allowed` is what `onUnavailable` says. */
  source: "service" | "unavailable";
  /** Why nobody decided. */
  error?: BillingError;
}

export interface CheckOptions {
  /** Whether to count the use, if it is allowed. */
  consume?: boolean;
  /** Of the use: counted once, however often it is asked. Made here if it is left out. */
  id?: string;
  signal?: AbortSignal;
  /** What the client's own option says otherwise. */
  onUnavailable?: OnUnavailable;
}

export interface ReserveOptions {
  id?: string;
  /** How long it is held, at most 3,600; 900 if it is left out. */
  ttlSeconds?: number;
  signal?: AbortSignal;
  onUnavailable?: OnUnavailable;
}

/** What came of confirming a reservation. */
export interface Confirmation {
  id: string;
  /** `told_later`: nothing answered, or nothing was held any more; the use was put to those that are tracked. */
  status: "confirmed" | "told_later";
  quantity: string;
  /** What was counted; null if that is not known yet. */
  counted: number | null;
  /** What was not, because it was more than was held and the quota allows. */
  refused: number;
  /** Why. */
  code: string | null;
}

export interface Reservation extends Decision {
  id: string;
  /** Null if nothing is held. */
  expiresAt: string | null;
  /** Says what was used. Needs `allowed`. */
  confirm(quantity: number | bigint | string): Promise<Confirmation>;
  /** Gives all of it back. */
  release(): Promise<void>;
}

interface DecisionBody {
  allowed: boolean;
  usage?: number;
  limit?: number | null;
  remaining?: number | null;
  percentage?: number;
  gracePeriod?: { startedAt: string; expiresAt: string } | null;
  code?: string | null;
  detail?: string;
  duplicate?: boolean;
  graceMax?: number;
}

/** Does without a service that has failed several times, for a while. */
export class Breaker {
  #failures = 0;
  #closedUntil = 0;
  #probing = false;

  /** Runs `ask`, or throws what failed last time. */
  async run<T>(ask: () => Promise<T>): Promise<T> {
    if (this.#failures >= 3 && (this.#probing || Date.now() < this.#closedUntil)) {
      throw new BillingError({ code: "unreachable", status: 0, detail: "the billing service could not be reached a moment ago" });
    }
    const probes = this.#failures >= 3;
    this.#probing ||= probes;
    try {
      const answer = await ask();
      this.#failures = 0;
      return answer;
    } catch (error) {
      if (error instanceof BillingError && error.unavailable) {
        this.#failures += 1;
        this.#closedUntil = Date.now() + Math.min(1_000 * 2 ** Math.max(this.#failures - 3, 0), 15_000);
      } else if (!(error instanceof BillingError) || error.code !== "aborted") {
        // It answers.
        this.#failures = 0;
      }
      throw error;
    } finally {
      if (probes) this.#probing = false;
    }
  }
}

export interface MeteringParts {
  transport: Transport;
  queue: UsageQueue;
  breaker: Breaker;
  onUnavailable: OnUnavailable;
  checkTimeoutMs: number;
  allowed(decision: Decision): void;
}

export class Metering {
  readonly #parts: MeteringParts;
  readonly #organization: string | undefined;

  constructor(parts: MeteringParts, organization: string | undefined) {
    this.#parts = parts;
    this.#organization = organization;
  }

  async check(metric: string, quantity: number | bigint | string, options: CheckOptions): Promise<Decision> {
    const asked = exact(quantity);
    const consume = options.consume ?? false;
    const id = options.id ?? (consume ? newId() : undefined);
    let answer: Answer<DecisionBody>;
    try {
      const body = { metric, quantity: asked, consume, ...(id === undefined ? {} : { id }) };
      answer = await this.#ask("/api/billing/usage/check", body, options.signal);
    } catch (error) {
      const decision = this.#undecided(error, metric, id, options.onUnavailable);
      if (decision.allowed && consume) this.#tell(id!, metric, asked, "check");
      return decision;
    }
    const decision = decided(metric, id, answer);
    // An id of ours is new: if it was counted, then by an attempt of this call.
    if (options.id === undefined) decision.duplicate = false;
    // The operator lets this metric pass without being counted while there is no database.
    if (decision.source === "unavailable" && consume) this.#tell(id!, metric, asked, "check");
    return decision;
  }

  track(metric: string, quantity: number | bigint | string, options: TrackOptions): string {
    const id = options.id ?? newId();
    checkId(id);
    const { metadata, occurredAt } = options;
    if (metadata !== undefined && new TextEncoder().encode(JSON.stringify(metadata)).length > 8_192) {
      throw new TypeError("metadata: more than 8 KiB as JSON");
    }
    this.#parts.queue.push({
      ...this.#event(id, metric, exact(quantity), occurredAt),
      ...(metadata === undefined ? {} : { metadata }),
    });
    return id;
  }

  async reserve(metric: string, quantity: number | bigint | string, options: ReserveOptions): Promise<Reservation> {
    const id = options.id ?? newId();
    checkId(id);
    const asked = exact(quantity);
    const { ttlSeconds } = options;
    let answer: Answer<DecisionBody & { expiresAt?: string }>;
    try {
      const body = { metric, quantity: asked, id, ...(ttlSeconds === undefined ? {} : { ttlSeconds }) };
      answer = await this.#ask("/api/billing/usage/reservations", body, options.signal);
    } catch (error) {
      const decision = this.#undecided(error, metric, id, options.onUnavailable);
      // If it is held after all, it expires.
      return this.#held({ ...decision, id, expiresAt: null }, metric);
    }
    return this.#held({ ...decided(metric, id, answer), id, expiresAt: answer.body.expiresAt ?? null }, metric);
  }

  async takeBack(id: string): Promise<void> {
    await this.#parts.transport.call({
      method: "DELETE",
      path: `/api/billing/usage/events/${encodeURIComponent(id)}`,
      organization: this.#organization,
    });
  }

  /** POSTs a question; a refusal is an answer. */
  #ask<T>(path: string, body: unknown, signal?: AbortSignal): Promise<Answer<T>> {
    const { transport, breaker, checkTimeoutMs } = this.#parts;
    return breaker.run(() =>
      transport.call<T>({
        method: "POST",
        path,
        organization: this.#organization,
        body,
        accept: [402],
        signal,
        deadlineMs: checkTimeoutMs,
      }),
    );
  }

  #event(id: string, metric: string, quantity: string, occurredAt: Date | string = new Date()): UsageEvent {
    const at = typeof occurredAt === "string" ? occurredAt : occurredAt.toISOString();
    const organization = this.#organization;
    return { id, ...(organization === undefined ? {} : { organization }), metric, quantity, occurredAt: at };
  }

  #tell(id: string, metric: string, quantity: string, after: "check" | "confirm"): void {
    this.#parts.queue.push(this.#event(id, metric, quantity), after);
  }

  /** What a use is that nobody decided about. Throws what is the caller's to mend. */
  #undecided(error: unknown, metric: string, id: string | undefined, asked?: OnUnavailable): Decision {
    if (!(error instanceof BillingError)) throw error;
    // Who asks too much is not let through for it.
    if (!error.unavailable && error.status !== 429) throw error;
    const allowed = error.unavailable && (asked ?? this.#parts.onUnavailable) === "allow";
    const decision: Decision = {
      ...unknown(metric, id),
      allowed,
      code: error.code,
      detail: error.detail,
      error,
    };
    if (allowed) this.#parts.allowed(decision);
    return decision;
  }

  #held(decision: Decision & { id: string; expiresAt: string | null }, metric: string): Reservation {
    const held = decision.expiresAt !== null;
    return {
      ...decision,
      confirm: (quantity) => {
        if (!decision.allowed) throw new TypeError("a reservation that was refused has nothing to confirm");
        return this.#confirm(decision.id, metric, exact(quantity), held);
      },
      release: async () => {
        if (!held) return;
        await this.#parts.transport.call({ method: "DELETE", path: holdPath(decision.id), organization: this.#organization });
      },
    };
  }

  async #confirm(id: string, metric: string, quantity: string, held: boolean): Promise<Confirmation> {
    const later = (code: string): Confirmation => {
      // Nothing was used: nothing is to be told.
      if (quantity !== "0") this.#tell(id, metric, quantity, "confirm");
      return { id, status: "told_later", quantity, counted: null, refused: 0, code };
    };
    if (!held) return later("not_held");
    try {
      const answer = await this.#parts.transport.call<{ counted: number; refused?: number; code?: string }>({
        method: "POST",
        path: `${holdPath(id)}/confirm`,
        organization: this.#organization,
        body: { quantity },
        accept: [402],
      });
      const { counted, refused = 0, code = null } = answer.body;
      return { id, status: "confirmed", quantity, counted, refused, code };
    } catch (error) {
      if (!(error instanceof BillingError)) throw error;
      const gone = ["reservation_expired", "reservation_released", "reservation_not_found"];
      if (error.unavailable || error.status === 429 || gone.includes(error.code)) return later(error.code);
      throw error;
    }
  }
}

export interface TrackOptions {
  /** Of the use: counted once, however often it is told. Made here if it is left out. */
  id?: string;
  /** When it was; now, if it is left out. */
  occurredAt?: Date | string;
  /** At most 8 KiB. */
  metadata?: Record<string, unknown>;
}

export function holdPath(id: string): string {
  return `/api/billing/usage/reservations/${encodeURIComponent(id)}`;
}

function checkId(id: string): void {
  if (id.length === 0 || new TextEncoder().encode(id).length > 255) {
    throw new TypeError("id: expected 1 to 255 bytes");
  }
}

function unknown(metric: string, id: string | undefined): Decision {
  return {
    allowed: false,
    metric,
    id,
    usage: null,
    limit: null,
    remaining: null,
    percentage: null,
    gracePeriod: null,
    code: null,
    detail: null,
    warning: false,
    duplicate: false,
    graceMax: null,
    source: "unavailable",
  };
}

function decided(metric: string, id: string | undefined, answer: Answer<DecisionBody>): Decision {
  const { body, status, headers } = answer;
  if (body.code === "failed_open") return { ...unknown(metric, id), allowed: true, code: "failed_open" };
  return {
    allowed: status !== 402,
    metric,
    id,
    usage: body.usage ?? null,
    limit: body.limit ?? null,
    remaining: body.remaining ?? null,
    percentage: body.percentage ?? null,
    gracePeriod: body.gracePeriod ?? null,
    code: body.code ?? null,
    detail: body.detail ?? null,
    warning: headers.get("x-quota-warning") === "true",
    duplicate: body.duplicate ?? false,
    graceMax: body.graceMax ?? null,
    source: "service",
  };
}
