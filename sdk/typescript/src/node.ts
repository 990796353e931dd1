// What only Node has: files, signals, and its own kind of request.

import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { dirname } from "node:path";

import type { Billing } from "./billing.js";
import { FileLock } from "./node/lock.js";
import type { EventStorage, QueuedEvent } from "./queue.js";

/** What is in a file's log: an event, or the keys of those that are done. */
type Line = { add: QueuedEvent } | { done: readonly string[] };

/** A log that is mostly of events that are done is written anew beyond this. */
const COMPACT_BYTES = 1024 * 1024;

export interface FileStorageOptions {
  /** Whether to wait for the disk with each event, so that they survive a power failure, not only the process. */
  sync?: boolean;
  /**
   * After how long without a sign of life a file is taken over from a process that cannot be looked at, such as one of
   * another container; 10,000 ms if it is left out. The call waits for as long before it takes it.
   */
  takeOverMs?: number;
}

/**
 * Events wait in a file, of one process at a time: what was tracked survives it, however it ends.
 *
 * Throws if another process has the file, or it cannot be read.
 */
export function fileStorage(path: string, options: FileStorageOptions = {}): EventStorage {
  mkdirSync(dirname(path), { recursive: true });
  const lock = FileLock.take(path, options.takeOverMs ?? 10_000);
  try {
    return new FileStorage(path, lock, options.sync ?? false);
  } catch (error) {
    lock.release();
    throw error;
  }
}

class FileStorage implements EventStorage {
  readonly #path: string;
  readonly #lock: FileLock;
  readonly #sync: boolean;
  readonly #waiting: Map<string, QueuedEvent>;
  #file: number;
  #torn = false;
  #bytes: number;
  #closed = false;

  constructor(path: string, lock: FileLock, sync: boolean) {
    this.#path = path;
    this.#lock = lock;
    this.#sync = sync;
    this.#waiting = readLog(path);
    this.#file = openSync(path, "a", 0o600);
    this.#bytes = 0;
    this.#compact();
  }

  load(): QueuedEvent[] {
    return [...this.#waiting.values()];
  }

  append(event: QueuedEvent): void {
    this.#write({ add: event });
    this.#waiting.set(event.key, event);
    if (this.#sync) fsyncSync(this.#file);
  }

  remove(keys: readonly string[]): void {
    this.#write({ done: keys });
    for (const key of keys) this.#waiting.delete(key);
    if (this.#bytes > COMPACT_BYTES) this.#compact();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    fsyncSync(this.#file);
    closeSync(this.#file);
    this.#lock.release();
  }

  #write(line: Line): void {
    if (this.#closed) throw new Error(`${this.#path} is closed`);
    this.#lock.check();
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    // Half a line that a full disk has left must not run into the next one.
    if (this.#torn) this.#compact();
    this.#torn = true;
    for (let written = 0; written < bytes.length; ) {
      written += writeSync(this.#file, bytes, written);
    }
    this.#torn = false;
    this.#bytes += bytes.length;
  }

  /** Writes what still waits to another file, which takes the place of this one. */
  #compact(): void {
    this.#lock.check({ now: true });
    const lines = [...this.#waiting.values()].map((event) => `${JSON.stringify({ add: event })}\n`);
    const next = `${this.#path}.new`;
    writeFileSync(next, lines.join(""), { mode: 0o600, flush: true } as object);
    const file = openSync(next, "a", 0o600);
    renameSync(next, this.#path);
    closeSync(this.#file);
    this.#file = file;
    this.#bytes = 0;
    this.#torn = false;
  }
}

function readLog(path: string): Map<string, QueuedEvent> {
  const waiting = new Map<string, QueuedEvent>();
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return waiting;
    throw error;
  }
  const lines = text.split("\n");
  for (const [at, text] of lines.entries()) {
    if (text === "") continue;
    let line: Line;
    try {
      line = JSON.parse(text) as Line;
    } catch {
      // The process ended while it wrote: `track` had not returned.
      if (at === lines.length - 1) break;
      throw new Error(`${path}: line ${at + 1} is not what this program has written`);
    }
    if ("add" in line) waiting.set(line.add.key, line.add);
    else for (const key of line.done) waiting.delete(key);
  }
  return waiting;
}

export interface CloseAtExitOptions {
  /** How long the process may stay for it. */
  timeoutMs?: number;
  signals?: readonly NodeJS.Signals[];
}

/**
 * Sends what was tracked before the process ends: by itself, or by a signal, which then does what it would have
 * done. Returns a function that undoes this. A product with a shutdown of its own calls `billing.close()` there instead.
 */
export function closeAtExit(billing: Billing, options: CloseAtExitOptions = {}): () => void {
  const { timeoutMs = 5_000, signals = ["SIGTERM", "SIGINT"] } = options;
  let closing: Promise<unknown> | undefined;
  const close = () => (closing ??= billing.close({ timeoutMs }));
  const atEnd = () => void (closing ?? (billing.pending > 0 ? close() : undefined));
  const atSignal = (signal: NodeJS.Signals) => {
    void close().finally(() => {
      undo();
      // Others who listen end the process themselves.
      if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
    });
  };
  const undo = () => {
    process.off("beforeExit", atEnd);
    for (const signal of signals) process.off(signal, atSignal);
  };
  process.on("beforeExit", atEnd);
  for (const signal of signals) process.on(signal, atSignal);
  return undo;
}

/** A handler of web requests, for `node:http` and frameworks on it. Put it before what parses bodies. */
export function nodeListener(
  handler: (request: Request) => Promise<Response>,
): (request: IncomingMessage & { originalUrl?: string }, response: ServerResponse) => Promise<void> {
  return async (incoming, outgoing) => {
    const gone = new AbortController();
    outgoing.once("close", () => gone.abort());
    try {
      const answer = await handler(await requestOf(incoming, gone.signal));
      outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
      outgoing.end(Buffer.from(await answer.arrayBuffer()));
    } catch (error) {
      if (gone.signal.aborted) return;
      console.error("billing: a request failed", error);
      if (!outgoing.headersSent) outgoing.writeHead(500);
      outgoing.end();
    }
  };
}

const MAX_BODY = 64 * 1024;

async function requestOf(incoming: IncomingMessage & { originalUrl?: string }, signal: AbortSignal): Promise<Request> {
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) {
    if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    // One byte more than is taken is enough to refuse it.
    if (bytes <= MAX_BODY + 1) chunks.push(chunk);
    else headers.set("content-length", String(bytes));
  }
  const method = incoming.method ?? "GET";
  const body = method === "GET" || method === "HEAD" ? undefined : Buffer.concat(chunks);
  const url = new URL(incoming.originalUrl ?? incoming.url ?? "/", "http://product.invalid");
  return new Request(url, { method, headers, signal, ...(body ? { body } : {}) });
}
