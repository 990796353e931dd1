import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Billing } from "../dist/index.js";
import { fileStorage } from "../dist/node.js";
import { ledger, problem, QUICK, serve, until } from "./server.js";

const folder = (t) => {
  const made = mkdtempSync(join(tmpdir(), "billing-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
};

const LIBRARY = new URL("../dist/", import.meta.url).href;

/** A program with a client in it. */
function program(url, script) {
  const text = `
    import { Billing } from "${LIBRARY}index.js";
    import { closeAtExit, fileStorage } from "${LIBRARY}node.js";
    const client = (more) => new Billing({ url: ${JSON.stringify(url)}, key: "vcp_k", queue: { flushIntervalMs: 60_000 }, ...more });
    ${script}`;
  return spawn(process.execPath, ["--input-type=module", "-e", text], { stdio: ["ignore", "pipe", "inherit"] });
}

const event = (id) => ({ key: id, event: { id, metric: "api_calls", quantity: "1" } });

test("what was tracked is told at the process's end, by itself or by a signal", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, take);
  const track = 'const billing = client(); closeAtExit(billing); billing.organization("acme").track("api_calls", 1, { id: ID });';
  const ended = program(server.url, track.replace("ID", '"end"').replace("client()", "client({ queue: { flushIntervalMs: 10 } })"));
  assert.deepEqual(await once(ended, "exit"), [0, null]);
  const stopped = program(server.url, `${track.replace("ID", '"signal"')} setInterval(() => {}, 1e6); console.log("up");`);
  await once(stopped.stdout, "data");
  stopped.kill("SIGTERM");
  assert.deepEqual(await once(stopped, "exit"), [null, "SIGTERM"]);
  assert.deepEqual([...counted.keys()], ["end", "signal"]);
});

test("a process that has closed its client ends", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, take);
  // With nothing that ends it: what were left of the client would keep it for longer than this test may take.
  const script = 'const billing = client(); billing.organization("acme").track("api_calls"); await billing.close({ timeoutMs: 600_000 });';
  assert.deepEqual(await once(program(server.url, script), "exit"), [0, null]);
  assert.equal(counted.size, 1);
});

test("what was tracked survives a process that is killed", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, problem(503, "x"), take);
  const file = join(folder(t), "usage", "log");
  const script = `
    const billing = client({ storage: fileStorage(${JSON.stringify(file)}), onError() {} });
    for (let n = 0; n < 50; n++) billing.organization("acme").track("api_calls", n, { id: "e" + n });
    process.kill(process.pid, "SIGKILL");`;
  assert.deepEqual(await once(program(server.url, script), "exit"), [null, "SIGKILL"]);
  assert.equal(counted.size, 0);
  const options = { url: server.url, key: "vcp_k", retry: QUICK, storage: fileStorage(file) };
  const billing = new Billing(options);
  billing.organization("acme").track("api_calls", 1, { id: "after" });
  await until(() => billing.pending === 0 && counted.size === 51);
  assert.deepEqual([...counted.keys()], [...Array.from({ length: 50 }, (_, n) => `e${n}`), "after"]);
  assert.equal(await billing.close(), 0);
  assert.deepEqual(fileStorage(file).load(), []);
});

test("what cannot be sent at the end stays for the next run", async (t) => {
  const server = await serve(t, problem(503, "x"));
  const file = join(folder(t), "log");
  const lost = [];
  const billing = new Billing({ url: server.url, key: "vcp_k", retry: QUICK, storage: fileStorage(file), onLost: (one) => lost.push(one), onError: () => {} });
  billing.organization("acme").track("api_calls", 1, { id: "kept" });
  assert.equal(await billing.close({ timeoutMs: 30 }), 1);
  assert.deepEqual(lost, []);
  const storage = fileStorage(file);
  assert.deepEqual(storage.load().map((one) => one.event.id), ["kept"]);
  storage.close();
});

test("a file is of one process, and a line that was not finished is none", async (t) => {
  const file = join(folder(t), "log");
  const storage = fileStorage(file);
  assert.throws(() => fileStorage(file), /open already/);
  storage.append(event("a"));
  storage.append(event("b"));
  storage.remove(["a"]);
  const lock = readFileSync(`${file}.lock`, "utf8");
  storage.close();
  assert.ok(!existsSync(`${file}.lock`));
  appendFileSync(file, '{"add":{"key":"c","ev');
  // Of this machine, and dead: one that is known to be is not waited for.
  writeFileSync(`${file}.lock`, JSON.stringify({ ...JSON.parse(lock), pid: 999_999_999 }));
  const again = fileStorage(file, { takeOverMs: 1e9 });
  assert.deepEqual(again.load(), [event("b")]);
  again.close();
  // The number of this process, which another one had before.
  writeFileSync(`${file}.lock`, JSON.stringify({ ...JSON.parse(lock), started: "1" }));
  fileStorage(file, { takeOverMs: 1e9 }).close();
  writeFileSync(`${file}.lock`, lock);
  assert.throws(() => fileStorage(file), /in use by process/);
  rmSync(`${file}.lock`);
  writeFileSync(file, "nonsense\n{}\n");
  assert.throws(() => fileStorage(file), /line 1/);
  assert.equal(readFileSync(file, "utf8"), "nonsense\n{}\n");
  assert.ok(!existsSync(`${file}.lock`));
});

/** The lock of a process of another container, which has this one's number, or one that runs here. */
const elsewhere = (pid) => JSON.stringify({ owner: "other", pid, space: "another container", started: "1" });

test("of another container's process its number says nothing, and its signs of life do", async (t) => {
  const file = join(folder(t), "log");
  for (const pid of [process.pid, process.ppid, 999_999_999]) {
    writeFileSync(`${file}.lock`, elsewhere(pid));
    // It gives none.
    fileStorage(file, { takeOverMs: 100 }).close();
    // It gives some.
    const script = `
      import { openSync, writeFileSync, writeSync } from "node:fs";
      const [file, text] = ${JSON.stringify([`${file}.lock`, elsewhere(pid)])};
      writeFileSync(file, text);
      const handle = openSync(file, "r+");
      setInterval(() => writeSync(handle, text, 0), 10);
      console.log("up");`;
    const other = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
    await once(other.stdout, "data");
    assert.throws(() => fileStorage(file, { takeOverMs: 30_000 }), /in use by process \d+ of another container/);
    assert.equal(readFileSync(`${file}.lock`, "utf8"), elsewhere(pid));
    other.kill("SIGKILL");
    await once(other, "exit");
    rmSync(`${file}.lock`);
  }
  // What an earlier version of this package has left.
  writeFileSync(`${file}.lock`, String(process.pid));
  fileStorage(file, { takeOverMs: 100 }).close();
  assert.throws(() => fileStorage(file, { takeOverMs: 1 }), /takeOverMs/);
});

test("who has lost a file to another writes nothing more into it, nor over it", async (t) => {
  const file = join(folder(t), "log");
  const storage = fileStorage(file, { takeOverMs: 100 });
  storage.append(event("a"));
  // As though this process had stood still, and another one had taken over.
  writeFileSync(`${file}.lock`, elsewhere(1));
  writeFileSync(file, `${JSON.stringify({ add: event("theirs") })}\n`);
  await until(() => {
    try {
      storage.append(event("b"));
      return false;
    } catch (error) {
      return /taken over/.test(error.message);
    }
  });
  storage.close();
  assert.equal(readFileSync(`${file}.lock`, "utf8"), elsewhere(1));
  const theirs = readFileSync(file, "utf8").split("\n")[0];
  assert.deepEqual(JSON.parse(theirs), { add: event("theirs") });
});

test("a file stays small", (t) => {
  const file = join(folder(t), "log");
  const storage = fileStorage(file);
  const large = "x".repeat(4_000);
  for (let n = 0; n < 2_000; n++) {
    storage.append({ key: `${n}`, event: { ...event("e").event, metadata: { large } } });
    if (n >= 3) storage.remove([`${n - 3}`]);
  }
  assert.ok(statSync(file).size < 1_200_000, `${statSync(file).size}`);
  assert.deepEqual(storage.load().map((one) => one.key), ["1997", "1998", "1999"]);
  storage.close();
});
