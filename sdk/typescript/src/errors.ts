// What went wrong, as the service says it (RFC 9457), or because it says nothing.

export interface ErrorDetails {
  code: string;
  /** 0: there was no answer. */
  status: number;
  detail: string;
  /** What to look for in the service's log. */
  requestId?: string | undefined;
  retryAfterMs?: number | undefined;
  /** All members of the problem. */
  details?: Record<string, unknown> | undefined;
  cause?: unknown;
}

export class BillingError extends Error {
  /** Stable: what programs look at. */
  readonly code: string;
  readonly status: number;
  readonly detail: string;
  readonly requestId: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly details: Record<string, unknown>;

  constructor(of: ErrorDetails) {
    super(`${of.detail} (${of.code})`, of.cause === undefined ? undefined : { cause: of.cause });
    this.name = "BillingError";
    this.code = of.code;
    this.status = of.status;
    this.detail = of.detail;
    this.requestId = of.requestId;
    this.retryAfterMs = of.retryAfterMs;
    this.details = of.details ?? {};
  }

  /** Whether the service could not do it for now, so that the same may succeed later. */
  get transient(): boolean {
    if (this.code === "stripe_not_configured" || this.code === "credentials_failed") return false;
    if (this.status === 409) return this.code === "idempotency_in_flight";
    return this.unavailable || this.status === 429 || this.status === 408;
  }

  /** Whether there is no service: no answer, or one that it failed to give. */
  get unavailable(): boolean {
    return this.status === 0 ? this.code !== "aborted" : this.status >= 500 && this.status !== 501;
  }
}

/** Narrows what was caught; with `code`, to that problem. */
export function isBillingError(error: unknown, code?: string): error is BillingError {
  return error instanceof BillingError && (code === undefined || error.code === code);
}
