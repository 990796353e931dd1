// One call: attempts, their time limits, and the pauses between them.
//
// Every call is made so that it is safe to repeat: reads change nothing, usage has ids of its
// own, and whatever else changes something has one Idempotency-Key for all of its attempts.

import { BillingError } from "./errors.js";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

export interface RetryOptions {
  /** Attempts of a call, the first one included. */
  attempts: number;
  /** The first pause; each further one is twice as long, and all are shortened at random. */
  minDelayMs: number;
  /** The longest pause. Where the service asks for a longer one, the call fails at once. */
  maxDelayMs: number;
}

export interface TransportOptions {
  url: string;
  /** The headers of each request. Called for each attempt, so that tokens may change. */
  headers: () => Record<string, string> | Promise<Record<string, string>>;
  fetch: typeof fetch;
  /** How long an attempt may take. */
  timeoutMs: number;
  retry: RetryOptions;
  credentials?: RequestCredentials | undefined;
}

export interface Call {
  method: Method;
  path: string;
  organization?: string | undefined;
  query?: Record<string, string | number | boolean | null | undefined> | undefined;
  /** JSON: a value, or text that is JSON already. */
  body?: unknown;
  rawBody?: string | undefined;
  headers?: Record<string, string> | undefined;
  idempotencyKey?: string | undefined;
  signal?: AbortSignal | undefined;
  /** For an attempt. */
  timeoutMs?: number | undefined;
  /** For the call with all of its attempts. */
  deadlineMs?: number | undefined;
  attempts?: number | undefined;
  /** Statuses that are answers rather than errors, besides 2xx. */
  accept?: readonly number[] | undefined;
}

export interface Answer<T = unknown> {
  status: number;
  headers: Headers;
  body: T;
  /** How many attempts it took. */
  attempts: number;
}

export class Transport {
  readonly #options: TransportOptions;
  readonly #base: string;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.#base = options.url.replace(/\/+$/, "");
  }

  get retry(): RetryOptions {
    return this.#options.retry;
  }

  async call<T>(call: Call): Promise<Answer<T>> {
    const { retry } = this.#options;
    const attempts = call.attempts ?? retry.attempts;
    const ends = call.deadlineMs === undefined ? Infinity : Date.now() + call.deadlineMs;
    for (let attempt = 1; ; attempt++) {
      try {
        const left = Math.min(call.timeoutMs ?? this.#options.timeoutMs, ends - Date.now());
        const answer = await this.#attempt<T>(call, Math.max(left, 1));
        return { ...answer, attempts: attempt };
      } catch (error) {
        const problem = error as BillingError;
        if (attempt >= attempts || !(error instanceof BillingError) || !problem.transient) throw error;
        const pause = pauseAfter(attempt, problem.retryAfterMs, retry);
        if (pause === undefined || Date.now() + pause >= ends) throw error;
        await sleep(pause, call.signal);
      }
    }
  }

  async #attempt<T>(call: Call, timeoutMs: number): Promise<Omit<Answer<T>, "attempts">> {
    if (call.signal?.aborted) throw aborted(call.signal);
    const stop = new AbortController();
    const abort = () => stop.abort();
    call.signal?.addEventListener("abort", abort, { once: true });
    let late: "key" | "answer" | undefined;
    let waitsFor: "key" | "answer" = "key";
    const timer = setTimeout(() => {
      late = waitsFor;
      stop.abort();
    }, timeoutMs);
    try {
      // A key that never comes holds nothing up for longer than a service that does not answer.
      const headers = await until(stop.signal, this.#headers(call));
      waitsFor = "answer";
      const body = call.rawBody ?? (call.body === undefined ? undefined : JSON.stringify(call.body));
      const response = await this.#options.fetch(this.#url(call), {
        method: call.method,
        headers,
        // What is sent has a key in it, which must not follow a redirect to anywhere.
        redirect: "manual",
        signal: stop.signal,
        ...(body === undefined ? {} : { body }),
        ...(this.#options.credentials ? { credentials: this.#options.credentials } : {}),
      });
      return await read<T>(response, call.accept ?? []);
    } catch (error) {
      if (call.signal?.aborted) throw aborted(call.signal);
      if (error instanceof BillingError) throw error;
      if (late) {
        throw new BillingError({ code: "timeout", status: 0, detail: `no ${late} within ${timeoutMs} ms`, cause: error });
      }
      throw new BillingError({ code: "unreachable", status: 0, detail: "the billing service cannot be reached", cause: error });
    } finally {
      clearTimeout(timer);
      call.signal?.removeEventListener("abort", abort);
    }
  }

  async #headers(call: Call): Promise<Record<string, string>> {
    let own: Record<string, string>;
    try {
      own = await this.#options.headers();
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : String(cause);
      throw new BillingError({ code: "credentials_failed", status: 0, detail, cause });
    }
    const headers: Record<string, string> = { accept: "application/json", ...own };
    if (call.organization !== undefined) headers["x-organization"] = asHeader(call.organization);
    if (call.idempotencyKey !== undefined) headers["idempotency-key"] = call.idempotencyKey;
    if (call.body !== undefined || call.rawBody !== undefined) headers["content-type"] = "application/json";
    return { ...headers, ...call.headers };
  }

  #url(call: Call): string {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined && value !== null) query.set(name, String(value));
    }
    const text = query.toString();
    return `${this.#base}${call.path}${text && `?${text}`}`;
  }
}

async function read<T>(response: Response, accept: readonly number[]): Promise<Omit<Answer<T>, "attempts">> {
  const { status, headers } = response;
  if (response.type === "opaqueredirect" || (status >= 300 && status < 400 && !accept.includes(status))) {
    throw new BillingError({ code: "redirected", status, detail: "the address of the billing service leads elsewhere" });
  }
  const text = await response.text();
  const answered = (status >= 200 && status < 300) || accept.includes(status);
  let body: unknown;
  try {
    body = text === "" ? undefined : JSON.parse(text);
  } catch (cause) {
    if (answered) throw new BillingError({ code: "invalid_answer", status, detail: "the answer is not JSON", cause });
  }
  if (answered) return { status, headers, body: body as T };
  throw problem(status, headers, body);
}

function problem(status: number, headers: Headers, body: unknown): BillingError {
  const details = typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  const known = typeof details["code"] === "string";
  return new BillingError({
    // Something in between, such as a proxy, has codes of its own or none.
    code: known ? (details["code"] as string) : `http_${status}`,
    status,
    detail: typeof details["detail"] === "string" ? details["detail"] : `status ${status}`,
    requestId: headers.get("x-request-id") ?? undefined,
    retryAfterMs: retryAfter(headers.get("retry-after")),
    details,
  });
}

/** What `promise` resolves with, unless `signal` is aborted before. */
function until<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

/** Whether the service has no room for this now, and says when to ask again. */
export function comesLater(error: unknown): error is BillingError & { retryAfterMs: number } {
  return error instanceof BillingError && (error.status === 429 || error.status === 503) && error.retryAfterMs !== undefined;
}

/** `Retry-After`, in seconds or as a date. */
export function retryAfter(header: string | null, now: number = Date.now()): number | undefined {
  if (header === null || header.trim() === "") return undefined;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

/** How long to pause after an attempt; undefined: longer than anybody would wait. */
export function pauseAfter(
  attempt: number,
  asked: number | undefined,
  retry: RetryOptions,
  random: number = Math.random(),
): number | undefined {
  if (asked !== undefined && asked > retry.maxDelayMs) return undefined;
  const grown = Math.min(retry.minDelayMs * 2 ** (attempt - 1), retry.maxDelayMs);
  // Between half and all of it, and never before the service wants it.
  return Math.max(asked ?? 0, grown * (0.5 + random / 2));
}

/** Text of any letters, as the bytes of a header. */
function asHeader(text: string): string {
  if (/^[\x20-\x7e]*$/.test(text)) return text;
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
}

function aborted(signal: AbortSignal): BillingError {
  return new BillingError({ code: "aborted", status: 0, detail: "the call was aborted", cause: signal.reason });
}

/** Resolves after `ms`; rejects when `signal` is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    const done = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(aborted(signal!));
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}
