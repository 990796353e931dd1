import assert from "node:assert/strict";
import { test } from "node:test";

import { Billing } from "../dist/index.js";
import { newId } from "../dist/ids.js";
import { exact } from "../dist/quantity.js";
import { json, ledger, problem, QUICK, reset, serve, until } from "./server.js";

const client = (url, more = {}) => {
  const lost = [];
  const errors = [];
  const { queue, ...rest } = more;
  const billing = new Billing({
    url, key: "vcp_k", retry: QUICK, onLost: (one) => lost.push(one), onError: (error, what) => errors.push([what, error.code]),
    queue: { flushIntervalMs: 5, maxPauseMs: 20, ...queue }, ...rest,
  });
  return { billing, acme: billing.organization("acme"), lost, errors };
};

test("uses are sent together, each with its id, organization and time", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, (response, request) => take(response, request));
  const { billing, acme, lost } = client(server.url, { queue: { flushIntervalMs: 60_000 } });
  const ids = [acme.track("api_calls"), billing.organization("globex").track("llm_tokens", "0.5", { metadata: { model: "m" } })];
  const chosen = acme.track("storage_gb", 12n, { id: "mine", occurredAt: new Date(0) });
  assert.equal(chosen, "mine");
  assert.equal(billing.pending, 3);
  assert.equal(await billing.flush(), 0);
  assert.equal(server.requests.length, 1);
  assert.deepEqual([...counted.keys()], [...ids, "mine"]);
  assert.deepEqual(counted.get("mine"), { id: "mine", organization: "acme", metric: "storage_gb", quantity: "12", occurredAt: "1970-01-01T00:00:00.000Z" });
  assert.equal(counted.get(ids[1]).quantity, "0.5");
  assert.equal(counted.get(ids[1]).organization, "globex");
  assert.deepEqual(billing.stats(), { tracked: 3, sent: 3, duplicates: 0, refused: 0, dropped: 0, allowedUnavailable: 0 });
  assert.deepEqual(lost, []);
});

test("a full batch does not wait", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, (response, request) => take(response, request));
  const { billing, acme } = client(server.url, { queue: { flushIntervalMs: 60_000, flushAt: 5, batchEvents: 2 } });
  for (let n = 0; n < 5; n++) acme.track("api_calls");
  await until(() => counted.size === 5);
  await until(() => billing.pending === 0);
  assert.deepEqual(server.requests.map((one) => one.body.events.length), [2, 2, 1]);
});

test("a batch whose answer is lost, is refused for now, or meets a stranger is sent until it is counted, once", async (t) => {
  const { counted, take } = ledger();
  const lose = (response, request) => {
    take({ writeHead() {}, end() {} }, request);
    reset(response);
  };
  const wrong = json(200, { results: [] });
  const html = (response) => response.writeHead(404, { "content-type": "text/html" }).end("not here");
  const server = await serve(t, lose, problem(503, "usage_unavailable"), problem(401, "unauthenticated"), html, wrong, problem(429, "rate_limited", { "retry-after": "0" }), take);
  const { billing, acme, lost, errors } = client(server.url, { retry: { ...QUICK, attempts: 1 } });
  const id = acme.track("api_calls", 2);
  await until(() => billing.pending === 0);
  assert.equal(server.requests.length, 7);
  assert.equal(new Set(server.requests.map((one) => one.text)).size, 1);
  assert.deepEqual([...counted.keys()], [id]);
  assert.equal(billing.stats().duplicates, 1);
  assert.deepEqual(lost, []);
  assert.deepEqual(errors, [["usage", "unreachable"]]);
});

test("one that is refused keeps no other, and is told", async (t) => {
  let puts = 0;
  const answer = (response, request) => {
    const results = request.body.events.map((event) => {
      if (event.metric === "nonsense") return { id: event.id, status: "rejected", code: "unknown_metric", detail: "no such" };
      if (event.organization === "held" && puts++ < 2) return { id: event.id, status: "rejected", code: "usage_unavailable", retryable: true };
      return { id: event.id, status: "recorded" };
    });
    json(200, { results })(response);
  };
  const server = await serve(t, answer);
  const { billing, acme, lost } = client(server.url);
  acme.track("nonsense", 1, { id: "bad" });
  billing.organization("held").track("api_calls", 1, { id: "held" });
  acme.track("api_calls", 1, { id: "good" });
  await until(() => billing.pending === 0);
  assert.deepEqual(lost.map(({ reason, code, event }) => [reason, code, event.id]), [["refused", "unknown_metric", "bad"]]);
  const sent = server.requests.map((one) => one.body.events.map((event) => event.id));
  assert.deepEqual(sent, [["bad", "held", "good"], ["held"], ["held"]]);
  assert.equal(billing.stats().refused, 1);
});

test("a request that is refused as a whole is sent in parts, until it is known for which event", async (t) => {
  const seen = [];
  const answer = (response, request) => {
    if (request.text.includes("poison")) return problem(400, "invalid_json")(response);
    seen.push(...request.body.events.map((event) => event.id));
    json(200, { results: request.body.events.map(({ id }) => ({ id, status: "recorded" })) })(response);
  };
  const server = await serve(t, answer);
  const { billing, acme, lost } = client(server.url, { queue: { flushIntervalMs: 60_000 } });
  for (let n = 0; n < 9; n++) acme.track("api_calls", 1, { id: n === 4 ? "poison" : `e${n}` });
  assert.equal(await billing.flush(), 0);
  assert.deepEqual(seen, ["e0", "e1", "e2", "e3", "e5", "e6", "e7", "e8"]);
  assert.deepEqual(lost.map((one) => [one.event.id, one.code]), [["poison", "invalid_json"]]);
});

test("beyond its bounds the queue says what it loses", async (t) => {
  const server = await serve(t, problem(503, "x"));
  const { billing, acme, lost } = client(server.url, { queue: { maxEvents: 2, flushIntervalMs: 60_000 } });
  for (const id of ["a", "b", "c"]) acme.track("api_calls", 1, { id });
  assert.deepEqual(lost.map((one) => [one.event.id, one.reason]), [["c", "queue_full"]]);
  assert.equal(await billing.close({ timeoutMs: 50 }), 2);
  acme.track("api_calls", 1, { id: "d" });
  assert.deepEqual(lost.slice(1).map((one) => [one.event.id, one.reason]), [["a", "closed"], ["b", "closed"], ["d", "closed"]]);
  assert.equal(billing.stats().dropped, 4);
  const small = client(server.url, { queue: { maxBytes: 300, flushIntervalMs: 60_000 } });
  small.acme.track("api_calls", 1, { metadata: { text: "x".repeat(400) } });
  assert.equal(small.lost[0].reason, "queue_full");
});

test("closing waits for what can be sent", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, problem(503, "x"), take);
  const { billing, acme } = client(server.url, { retry: { ...QUICK, attempts: 1 }, queue: { flushIntervalMs: 60_000 } });
  acme.track("api_calls");
  assert.equal(await billing.close(), 0);
  assert.equal(counted.size, 1);
});

test("what cannot be counted is refused where it is said", async (t) => {
  const server = await serve(t, json(200, {}));
  const { acme } = client(server.url);
  for (const quantity of [-1, NaN, Infinity, 0.00001, 1e21, 2 ** 53, "1e3", "", "-0", null, "1.00001", "9".repeat(21)]) {
    assert.throws(() => acme.track("api_calls", quantity), TypeError, String(quantity));
  }
  assert.throws(() => acme.track("api_calls", 1, { id: "" }), TypeError);
  assert.throws(() => acme.track("api_calls", 1, { id: "é".repeat(200) }), TypeError);
  assert.throws(() => acme.track("api_calls", 1, { metadata: { a: "x".repeat(9_000) } }), TypeError);
  const written = [[1, "1"], [0.1, "0.1"], ["007.5000", "7.5"], [12345678901234567890n, "12345678901234567890"], ["0.0", "0"]];
  for (const [quantity, text] of written) assert.equal(exact(quantity), text);
});

test("ids made later are greater", () => {
  const ids = Array.from({ length: 10_000 }, () => newId());
  assert.deepEqual(ids, [...new Set(ids)].sort());
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
