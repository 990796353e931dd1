// A file is of one process at a time, whatever runs beside it: another process, another container on
// the same volume, or one that has this one's number.

import { randomUUID } from "node:crypto";
import { closeSync, fstatSync, linkSync, openSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { hostname } from "node:os";

/** What a lock says of who has it. */
interface Holder {
  /** Of this lock and no other. */
  owner: string;
  pid: number;
  /** Where `pid` means something, and when its process began: numbers are given again. */
  space: string;
  started: string;
}

/** How often a holder shows that it is there, of the time after which it is taken for dead. */
const BEATS = 5;

/** Files that this process has open. */
const open = new Set<string>();

export class FileLock {
  readonly #path: string;
  readonly #file: string;
  readonly #text: string;
  readonly #takeOverMs: number;
  #handle: number;
  #beat: ReturnType<typeof setInterval>;
  #beatAt = performance.now();
  #lost = false;

  private constructor(path: string, file: string, text: string, takeOverMs: number) {
    this.#path = path;
    this.#file = file;
    this.#text = text;
    this.#takeOverMs = takeOverMs;
    this.#handle = openSync(file, "r+");
    this.#beat = setInterval(() => this.#beats(), takeOverMs / BEATS);
    this.#beat.unref();
    open.add(path);
  }

  /** Throws if somebody else has the file, or may have it. */
  static take(path: string, takeOverMs: number): FileLock {
    if (!Number.isFinite(takeOverMs) || takeOverMs < 100) throw new TypeError("takeOverMs: expected at least 100");
    if (open.has(path)) throw new Error(`${path} is open already: one client has it`);
    const file = `${path}.lock`;
    const own: Holder = { owner: randomUUID(), pid: process.pid, space: space(), started: startOf(process.pid) };
    const text = JSON.stringify(own);
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        writeFileSync(file, text, { flag: "wx", mode: 0o600 });
        return new FileLock(path, file, text, takeOverMs);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const held = textOf(file);
      if (held === undefined) continue;
      const holder = holderOf(held);
      if (isAlive(path, file, held, holder, own, takeOverMs)) throw inUse(path, holder);
      remove(path, file, held, own.owner);
    }
    throw new Error(`${path} is being taken by another process`);
  }

  /** Throws if the file is another's by now, as after this process has stood still for long. */
  check({ now = false } = {}): void {
    const silent = performance.now() - this.#beatAt;
    if (now || silent > (this.#takeOverMs * 2) / BEATS) this.#beats();
    if (this.#lost) throw new Error(`${this.#path} was taken over by another process, since this one gave no sign of life`);
  }

  release(): void {
    clearInterval(this.#beat);
    open.delete(this.#path);
    const own = textOf(this.#file) === this.#text;
    closeSync(this.#handle);
    if (own) rmSync(this.#file, { force: true });
  }

  /** Writes the same text again: the file's time says that this process is there. */
  #beats(): void {
    if (this.#lost) return;
    try {
      if (textOf(this.#file) === this.#text) {
        writeSync(this.#handle, this.#text, 0);
        this.#beatAt = performance.now();
      } else {
        this.#lost = true;
      }
    } catch {
      // A disk that fails now may do better next time; until then others may take the file.
    }
  }
}

function inUse(path: string, holder: Holder | undefined): Error {
  const who = holder ? `process ${holder.pid}${holder.space === space() ? "" : " of another container or host"}` : "another process";
  return new Error(`${path} is in use by ${who}: give each process a file of its own`);
}

/** Whether the holder lives. One that cannot be looked at is waited for. */
function isAlive(path: string, file: string, held: string, holder: Holder | undefined, own: Holder, takeOverMs: number): boolean {
  if (holder && holder.space === own.space) return startOf(holder.pid) === holder.started;
  const first = timeOf(file);
  for (;;) {
    const silent = clockOf(path, own.owner) - (timeOf(file) ?? 0);
    if (silent > takeOverMs) return false;
    pause(Math.min(takeOverMs / BEATS, 200));
    // Somebody has taken or released it, which the next attempt sees.
    if (textOf(file) !== held) return false;
    if (timeOf(file) !== first) return true;
  }
}

/** Removes the lock of one who is dead, and no other that was made meanwhile. */
function remove(path: string, file: string, held: string, owner: string): void {
  const aside = `${path}.${owner}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return;
  }
  if (textOf(aside) !== held) {
    try {
      linkSync(aside, file);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
  rmSync(aside, { force: true });
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function holderOf(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Partial<Holder> | null;
    return typeof holder === "object" && holder !== null && typeof holder.pid === "number" ? (holder as Holder) : undefined;
  } catch {
    return undefined;
  }
}

/** When the lock's holder last gave a sign of life, by the clock of the file's own disk. */
function timeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs;
}

/** The time by that clock, which may be another machine's. */
function clockOf(path: string, owner: string): number {
  const file = `${path}.${owner}`;
  const handle = openSync(file, "w", 0o600);
  try {
    writeSync(handle, "?");
    return fstatSync(handle).mtimeMs;
  } finally {
    closeSync(handle);
    rmSync(file, { force: true });
  }
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** Where process numbers mean the same: on Linux a boot and a namespace, which each container has of its own. */
function space(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return `${process.platform} ${hostname()}`;
  }
}

/** When a process began; empty if there is none. */
function startOf(pid: number): string {
  if (!Number.isInteger(pid) || pid <= 0) return "";
  try {
    // The name before it may have anything in it, parentheses too.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    try {
      if (process.platform === "linux") return "";
      process.kill(pid, 0);
      return "runs";
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EPERM" ? "runs" : "";
    }
  }
}
