// Usage that waits to be told: bounded, sent in batches, lost only aloud.

import { BillingError, isBillingError } from "./errors.js";
import { newId } from "./ids.js";
import { pauseAfter, type RetryOptions } from "./transport.js";

/** A use that has happened. */
export interface UsageEvent {
  id: string;
  /** With a service key. */
  organization?: string;
  metric: string;
  /** A decimal number. */
  quantity: string;
  /** RFC 3339. */
  occurredAt?: string;
  metadata?: Record<string, unknown>;
}

/** An event as it waits. */
export interface QueuedEvent {
  /** Of the queue's own: what `remove` names. */
  key: string;
  event: UsageEvent;
  /** What was asked of the service before, without an answer: it may have counted the use. */
  after?: "check" | "confirm";
}

/** Where events wait, besides in memory. Both `append` and `remove` may be synchronous. */
export interface EventStorage {
  /** What an earlier run has left, oldest first. Called once. */
  load(): QueuedEvent[] | Promise<QueuedEvent[]>;
  /** Called before `track` returns. */
  append(event: QueuedEvent): void | Promise<void>;
  /** These were counted, or refused for good. */
  remove(keys: readonly string[]): void | Promise<void>;
  close?(): void | Promise<void>;
}

/** An event that will not be counted, and why. */
export interface LostEvent {
  event: UsageEvent;
  /** `refused` by the service, with its `code`; `queue_full`; or `closed` before it could be sent. */
  reason: "refused" | "queue_full" | "closed";
  code?: string;
  detail?: string;
}

export interface QueueOptions {
  /** How many events may wait; further ones are lost, aloud. */
  maxEvents: number;
  /** How many bytes of events may wait. */
  maxBytes: number;
  /** How long an event waits for others to share its request. */
  flushIntervalMs: number;
  /** How many events do not wait. */
  flushAt: number;
  /** Events of a request; at most 1,000. */
  batchEvents: number;
  /** The longest pause while the service cannot be reached. */
  maxPauseMs: number;
}

export interface QueueStats {
  /** Events that were taken, those that an earlier run left included. */
  tracked: number;
  /** Those that the service has counted. */
  sent: number;
  /** Those that it had counted before. */
  duplicates: number;
  /** Those that it will never count. */
  refused: number;
  /** Those that it was never told. */
  dropped: number;
}

interface Result {
  status: "recorded" | "duplicate" | "rejected";
  code?: string;
  detail?: string;
  retryable?: boolean;
}

interface Entry extends QueuedEvent {
  json: string;
  bytes: number;
  /** How often the service has put it off, and until when. */
  puts: number;
  due: number;
}

export interface QueueHooks {
  /** POSTs a body, and resolves with one result for each event. */
  send(body: string): Promise<Result[]>;
  /** Asks again about a reservation; resolves if its use is counted. */
  confirm(event: UsageEvent): Promise<boolean>;
  /** Ends what `send` is about to do. */
  stop(): void;
  onLost(lost: LostEvent): void;
  onError(error: unknown, what: "usage" | "storage"): void;
}

const MAX_BATCH_BYTES = 256 * 1024;

export class UsageQueue {
  readonly stats: QueueStats = { tracked: 0, sent: 0, duplicates: 0, refused: 0, dropped: 0 };
  readonly #options: QueueOptions;
  readonly #retry: RetryOptions;
  readonly #hooks: QueueHooks;
  readonly #storage: EventStorage | undefined;
  readonly #loaded: Promise<void>;
  #ready: Entry[] = [];
  #later: Entry[] = [];
  #bytes = 0;
  #limit: number;
  #failures = 0;
  #pausedUntil = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = Infinity;
  #running: Promise<number> | undefined;
  #closed = false;

  constructor(options: QueueOptions, retry: RetryOptions, hooks: QueueHooks, storage?: EventStorage) {
    this.#options = options;
    this.#retry = { ...retry, maxDelayMs: options.maxPauseMs };
    this.#hooks = hooks;
    this.#storage = storage;
    this.#limit = options.batchEvents;
    this.#loaded = storage ? this.#load(storage) : Promise.resolve();
  }

  /** How many events wait, or are being sent. */
  get length(): number {
    return this.#ready.length + this.#later.length;
  }

  /** Takes an event; false: it is lost, and `onLost` was told. */
  push(event: UsageEvent, after?: QueuedEvent["after"]): boolean {
    const entry = entryOf({ key: newId(), event, ...(after ? { after } : {}) });
    this.stats.tracked += 1;
    if (this.#closed) return this.#lose({ event, reason: "closed" });
    const { maxEvents, maxBytes } = this.#options;
    if (this.length >= maxEvents || this.#bytes + entry.bytes > maxBytes) {
      return this.#lose({ event, reason: "queue_full" });
    }
    const { key } = entry;
    this.#store((storage) => storage.append({ key, event, ...(after ? { after } : {}) }));
    this.#add(entry);
    this.#schedule(this.#ready.length >= this.#options.flushAt ? 0 : this.#options.flushIntervalMs);
    return true;
  }

  /** Sends what waits, and resolves with how many events still do: 0, if all went well. */
  async flush(): Promise<number> {
    this.#ready.push(...this.#later.splice(0));
    this.#pausedUntil = 0;
    return this.#run();
  }

  /** Takes no more, and sends what waits for as long as `timeoutMs`. */
  async close(timeoutMs: number): Promise<number> {
    const ends = Date.now() + timeoutMs;
    this.#closed = true;
    for (let attempt = 1; this.length > 0 || this.#running; attempt++) {
      const left = ends - Date.now();
      if (left <= 0) break;
      // A timer that is left over would keep the process.
      let timer: ReturnType<typeof setTimeout> | undefined;
      const late = new Promise((resolve) => (timer = setTimeout(resolve, left)));
      await Promise.race([this.flush(), late]).finally(() => clearTimeout(timer));
      const pause = Math.min(pauseAfter(attempt, undefined, this.#retry) ?? 0, ends - Date.now());
      if (this.length > 0 && pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#hooks.stop();
    await this.#running;
    const left = this.length;
    // What is stored is told by the next run.
    if (!this.#storage) {
      for (const entry of [...this.#ready.splice(0), ...this.#later.splice(0)]) {
        this.#lose({ event: entry.event, reason: "closed" });
      }
    }
    await this.#storage?.close?.();
    return left;
  }

  async #load(storage: EventStorage): Promise<void> {
    try {
      const left = await storage.load();
      const before = this.#ready.splice(0);
      this.#bytes = 0;
      const known = new Set(before.map((entry) => entry.key));
      for (const one of left) if (!known.has(one.key)) this.#add(entryOf(one));
      this.stats.tracked += this.#ready.length;
      for (const entry of before) this.#add(entry);
      if (left.length > 0) this.#schedule(0);
    } catch (error) {
      this.#hooks.onError(error, "storage");
    }
  }

  #add(entry: Entry): void {
    this.#ready.push(entry);
    this.#bytes += entry.bytes;
  }

  #store(act: (storage: EventStorage) => void | Promise<void>): void {
    if (!this.#storage) return;
    try {
      const done = act(this.#storage);
      if (done) done.catch((error: unknown) => this.#hooks.onError(error, "storage"));
    } catch (error) {
      this.#hooks.onError(error, "storage");
    }
  }

  #schedule(afterMs: number): void {
    if (this.#closed || this.#running) return;
    const at = Math.max(Date.now() + afterMs, this.#pausedUntil);
    if (this.#timer !== undefined && this.#timerAt <= at) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => void this.#run(), at - Date.now());
  }

  #run(): Promise<number> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#running ??= this.#drain().finally(() => {
      this.#running = undefined;
      if (this.#ready.length > 0) this.#schedule(this.#options.flushIntervalMs);
      else if (this.#later.length > 0) {
        this.#schedule(Math.max(0, Math.min(...this.#later.map((entry) => entry.due)) - Date.now()));
      }
    });
    return this.#running;
  }

  /** Sends batches until none is left, or the service cannot be reached. */
  async #drain(): Promise<number> {
    await this.#loaded;
    for (;;) {
      const now = Date.now();
      const due = this.#later.filter((entry) => entry.due <= now);
      if (due.length > 0) {
        this.#later = this.#later.filter((entry) => entry.due > now);
        this.#ready.push(...due);
      }
      const batch = this.#batch();
      if (batch.length === 0) return this.length;
      let results: Result[];
      try {
        results = await this.#hooks.send(`{"events":[${batch.map((entry) => entry.json).join(",")}]}`);
        if (!Array.isArray(results) || results.length !== batch.length) {
          throw new BillingError({ code: "invalid_answer", status: 0, detail: "not each event has a result" });
        }
      } catch (error) {
        if (this.#isolates(error, batch)) continue;
        this.#pause(error);
        return this.length;
      }
      this.#failures = 0;
      this.#limit = Math.min(this.#limit * 2, this.#options.batchEvents);
      await this.#settle(batch, results);
    }
  }

  #batch(): Entry[] {
    let bytes = 0;
    let count = 0;
    for (const entry of this.#ready) {
      bytes += entry.bytes + 1;
      if (count > 0 && (count >= this.#limit || bytes > MAX_BATCH_BYTES)) break;
      count += 1;
    }
    return this.#ready.slice(0, count);
  }

  /** A request that the service refuses for what is in it is sent in parts, until it is known for which event. */
  #isolates(error: unknown, batch: Entry[]): boolean {
    if (!(error instanceof BillingError) || ![400, 409, 413, 422].includes(error.status) || error.transient) return false;
    // Only the service says what is wrong with an event.
    if (error.status !== 413 && error.code.startsWith("http_")) return false;
    if (batch.length > 1) {
      this.#limit = Math.ceil(batch.length / 2);
      return true;
    }
    this.#refuse(batch[0]!, error.code, error.detail);
    return true;
  }

  #pause(error: unknown): void {
    this.#failures += 1;
    const asked = error instanceof BillingError ? error.retryAfterMs : undefined;
    const most = Math.max(this.#retry.maxDelayMs, asked ?? 0);
    const pause = pauseAfter(this.#failures, asked, { ...this.#retry, maxDelayMs: most }) ?? most;
    this.#pausedUntil = Date.now() + Math.min(pause, 3_600_000);
    // Once for each time that it begins.
    if (this.#failures === 1 && !isBillingError(error, "aborted")) this.#hooks.onError(error, "usage");
  }

  async #settle(batch: Entry[], results: Result[]): Promise<void> {
    const again: Entry[] = [];
    const refused = new Set<Entry>();
    const refuse = (entry: Entry, code: string, detail?: string) => {
      refused.add(entry);
      this.#refuse(entry, code, detail);
    };
    for (const [place, entry] of batch.entries()) {
      const result = results[place]!;
      if (result.status === "recorded") this.stats.sent += 1;
      else if (result.status === "duplicate") this.stats.duplicates += 1;
      else if (result.retryable) again.push(this.#putOff(entry));
      else if (result.code === "event_id_reused" && entry.after !== undefined) {
        const counted = await this.#asked(entry, again);
        if (counted === false) refuse(entry, result.code, result.detail);
      } else {
        refuse(entry, result.code ?? "rejected", result.detail);
      }
    }
    const kept = new Set(again);
    const done = batch.filter((entry) => !kept.has(entry) && !refused.has(entry));
    this.#forget(done);
    this.#ready = this.#ready.filter((entry) => !kept.has(entry));
    this.#later.push(...again);
  }

  /** Whether the use was counted when it was asked about before; undefined: it is asked again. */
  async #asked(entry: Entry, again: Entry[]): Promise<boolean | undefined> {
    if (entry.after === "check") {
      // A check knows no time: what it has counted is the same event without one.
      delete entry.after;
      delete entry.event.occurredAt;
      const { json, bytes } = entryOf(entry);
      this.#bytes += bytes - entry.bytes;
      Object.assign(entry, { json, bytes, due: 0 });
      again.push(entry);
      return undefined;
    }
    try {
      if (!(await this.#hooks.confirm(entry.event))) return false;
      this.stats.duplicates += 1;
      return true;
    } catch {
      again.push(this.#putOff(entry));
      return undefined;
    }
  }

  #putOff(entry: Entry): Entry {
    entry.puts += 1;
    entry.due = Date.now() + (pauseAfter(entry.puts, undefined, this.#retry) ?? this.#retry.maxDelayMs);
    return entry;
  }

  #refuse(entry: Entry, code: string, detail?: string): void {
    this.stats.refused += 1;
    this.#forget([entry]);
    this.#told({ event: entry.event, reason: "refused", code, ...(detail ? { detail } : {}) });
  }

  #forget(entries: Entry[]): void {
    if (entries.length === 0) return;
    const gone = new Set(entries);
    this.#ready = this.#ready.filter((entry) => !gone.has(entry));
    for (const entry of entries) this.#bytes -= entry.bytes;
    const keys = entries.map((entry) => entry.key);
    this.#store((storage) => storage.remove(keys));
  }

  #lose(lost: LostEvent): false {
    this.stats.dropped += 1;
    this.#told(lost);
    return false;
  }

  #told(lost: LostEvent): void {
    try {
      this.#hooks.onLost(lost);
    } catch (error) {
      console.error("billing: onLost failed", error);
    }
  }
}

function entryOf(one: QueuedEvent): Entry {
  const json = JSON.stringify(one.event);
  const bytes = new TextEncoder().encode(json).length;
  const { key, event, after } = one;
  return { key, event, json, bytes, puts: 0, due: 0, ...(after ? { after } : {}) };
}
