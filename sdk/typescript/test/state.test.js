import assert from "node:assert/strict";
import { test } from "node:test";

import { Billing } from "../dist/index.js";
import { json, problem, QUICK, serve, until } from "./server.js";

/** A service with a state that a test changes, and requests that wait for it. */
async function world(t, options = {}) {
  const world = { version: 1, down: false, asked: [], polled: [], waiting: [] };
  const doc = () => ({ stateVersion: world.version, plan: { tier: `plan${world.version}` } });
  const answer = (response) => json(200, doc(), { etag: `"${world.version}"` })(response);
  const server = await serve(t, (response, request) => {
    const url = new URL(request.url, "http://x");
    const after = url.searchParams.get("after");
    world.asked.push(after === null ? "read" : "poll");
    if (after !== null) world.polled.push(performance.now());
    if (world.down) return problem(503, "x")(response);
    if (after === null) return request.headers["if-none-match"] === `"${world.version}"` ? json(304)(response) : answer(response);
    if (Number(after) > world.version) return problem(400, "unknown_state_version")(response);
    if (Number(after) < world.version) return answer(response);
    if (world.full) return problem(world.full, "busy", { "retry-after": "1" })(response);
    world.waiting.push(() => (world.down ? response.socket.destroy() : answer(response)));
  });
  world.set = (version) => {
    world.version = version;
    for (const go of world.waiting.splice(0)) go();
  };
  world.errors = [];
  world.billing = new Billing({ url: server.url, key: "vcp_k", retry: { ...QUICK, attempts: 1 }, onError: (error, what) => world.errors.push(what), ...options });
  world.acme = world.billing.organization("acme");
  world.reads = () => world.asked.filter((one) => one === "read").length;
  t.after(() => world.billing.close());
  return world;
}

const polls = (world) => until(() => world.waiting.length === 1, "a poll");

test("a state is read once, and then is what the service says last", async (t) => {
  const it = await world(t);
  const [one, two] = await Promise.all([it.acme.state(), it.acme.state()]);
  assert.deepEqual([one.stateVersion, two.stateVersion], [1, 1]);
  await polls(it);
  it.set(2);
  await polls(it);
  for (let n = 0; n < 100; n++) assert.equal((await it.acme.state()).stateVersion, 2);
  assert.equal(it.reads(), 1);
});

test("who listens hears of each change, until they do not", async (t) => {
  const it = await world(t);
  const heard = [];
  const stop = it.acme.watch((state) => heard.push(state.stateVersion));
  await polls(it);
  it.set(2);
  await polls(it);
  it.set(5);
  await polls(it);
  assert.deepEqual(heard, [1, 2, 5]);
  stop();
  const other = [];
  it.acme.watch((state) => other.push(state.stateVersion));
  it.set(6);
  await until(() => other.includes(6));
  assert.deepEqual([heard, other], [[1, 2, 5], [5, 6]]);
});

test("a change of one's own is seen by the next who asks", async (t) => {
  const it = await world(t);
  await it.acme.state();
  await polls(it);
  it.version = 2;
  await it.acme.reactivate().catch(() => undefined);
  assert.equal((await it.acme.state()).stateVersion, 2);
});

test("an older database is believed", async (t) => {
  const it = await world(t);
  it.version = 9;
  assert.equal((await it.acme.state()).stateVersion, 9);
  await polls(it);
  it.down = true;
  it.set(3);
  it.down = false;
  await until(() => it.waiting.length === 1);
  assert.equal((await it.acme.state()).stateVersion, 3);
});

test("without the service the last state is told, or nothing, and what fails is heard", async (t) => {
  for (const onUnavailable of ["allow", "deny"]) {
    const it = await world(t, { onUnavailable, state: { maxStaleMs: 0 } });
    const failed = [];
    it.acme.watch(() => undefined, (error) => failed.push(error.code));
    assert.equal((await it.acme.state()).stateVersion, 1);
    await polls(it);
    it.down = true;
    it.set(1);
    await until(() => failed.length > 0);
    assert.deepEqual(it.errors.slice(0, 1), ["state"]);
    const asked = it.acme.state();
    if (onUnavailable === "allow") assert.equal((await asked).stateVersion, 1);
    else await assert.rejects(asked, { code: "x" });
    await assert.rejects(it.billing.organization("other").state(), { status: 503 });
    await it.billing.close();
  }
});

test("where the service has no room for a poll each one asks, until it has", async (t) => {
  for (const status of [429, 503]) {
    const it = await world(t);
    it.full = status;
    const heard = [];
    it.acme.watch((state) => heard.push(state.stateVersion));
    await until(() => it.asked.filter((one) => one === "poll").length >= 1, "a poll");
    await until(() => it.reads() >= 2, "a read after it");
    // That one may be under way, and whoever asks meanwhile shares it.
    await it.acme.state();
    for (const version of [2, 3]) {
      it.version = version;
      assert.equal((await it.acme.state()).stateVersion, version);
    }
    assert.deepEqual(it.errors, [], "nothing has failed");
    assert.deepEqual(heard, [1, 2, 3]);
    it.full = undefined;
    await polls(it);
    // It was not asked again before it wanted to be.
    assert.ok(it.polled[1] - it.polled[0] >= 1_000, `${it.polled}`);
    it.set(4);
    await polls(it);
    const reads = it.reads();
    assert.equal((await it.acme.state()).stateVersion, 4);
    assert.equal(it.reads(), reads, "polled again, nobody is asked");
    await it.billing.close();
  }
});

test("where nothing outlives a request, each one asks whether it has changed", async (t) => {
  const it = await world(t, { state: { mode: "ask" } });
  for (const version of [1, 1, 2, 1]) {
    it.version = version;
    assert.equal((await it.acme.state()).stateVersion, version);
  }
  assert.deepEqual(it.asked, ["read", "read", "read", "read"]);
});

test("organizations beyond the polls are asked about, and those that nobody asks about are not polled", async (t) => {
  const it = await world(t, { state: { maxPolls: 1 } });
  await it.acme.state();
  await polls(it);
  for (let n = 0; n < 3; n++) await it.billing.organization("globex").state();
  assert.deepEqual([it.reads(), it.waiting.length], [4, 1]);
  const idle = await world(t, { state: { idleMs: 0 } });
  for (let n = 0; n < 3; n++) await idle.acme.state();
  assert.deepEqual(idle.asked, ["read", "read", "read"]);
});
