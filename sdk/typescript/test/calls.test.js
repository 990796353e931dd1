import assert from "node:assert/strict";
import { test } from "node:test";

import { Billing, BillingError, isBillingError } from "../dist/index.js";
import { pauseAfter, retryAfter } from "../dist/transport.js";
import { hang, json, problem, QUICK, reset, serve } from "./server.js";

const client = (url, more = {}) => new Billing({ url, key: "vcp_secret", retry: QUICK, ...more });
const caught = (promise) => promise.then(() => assert.fail("it succeeded"), (error) => error);

test("a change is tried again with the same key, and answered once", async (t) => {
  const server = await serve(t, problem(503, "stripe_unreachable"), reset, problem(409, "idempotency_in_flight"), json(200, { status: "active" }));
  const billing = client(server.url, { retry: { ...QUICK, attempts: 4 } });
  const changed = await billing.organization("acme").changePlan({ planTier: "standard" });
  assert.equal(changed.status, "active");
  const keys = new Set(server.requests.map((request) => request.headers["idempotency-key"]));
  assert.equal(server.requests.length, 4);
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^[0-9a-f-]{36}$/);
  for (const request of server.requests) {
    assert.equal(request.headers["x-organization"], "acme");
    assert.equal(request.headers.authorization, "Bearer vcp_secret");
    assert.deepEqual(request.body, { planTier: "standard" });
  }
});

test("what the caller must mend is tried once, and says what it is", async (t) => {
  const server = await serve(t, problem(422, "unknown_plan", {}, { field: "planTier" }));
  const error = await caught(client(server.url).organization("acme").changePlan({ planTier: "gold" }));
  assert.ok(error instanceof BillingError && isBillingError(error, "unknown_plan") && !isBillingError(error, "same_plan"));
  const { code, status, detail, requestId, details } = error;
  assert.deepEqual({ code, status, detail, requestId }, { code: "unknown_plan", status: 422, detail: "it is unknown_plan", requestId: "r-1" });
  assert.equal(details.field, "planTier");
  assert.equal(server.requests.length, 1);
  assert.ok(!JSON.stringify(error).includes("vcp_secret") && !String(error.stack).includes("vcp_secret"));
});

test("what no repetition mends is tried once", async (t) => {
  const server = await serve(t, problem(503, "stripe_not_configured"));
  const error = await caught(client(server.url).organization("a").checkout({ planTier: "standard" }));
  assert.equal(error.code, "stripe_not_configured");
  assert.equal(server.requests.length, 1);
});

test("a service that wants to be left alone for longer than one waits is", async (t) => {
  const server = await serve(t, problem(429, "rate_limited", { "retry-after": "60" }));
  const error = await caught(client(server.url).organization("a").usage());
  assert.equal(error.retryAfterMs, 60_000);
  assert.equal(server.requests.length, 1);
});

test("pauses grow, and are never shorter than the service asks", () => {
  const retry = { attempts: 3, minDelayMs: 100, maxDelayMs: 5_000 };
  assert.equal(pauseAfter(1, undefined, retry, 0), 50);
  assert.equal(pauseAfter(1, undefined, retry, 1), 100);
  assert.equal(pauseAfter(3, undefined, retry, 1), 400);
  assert.equal(pauseAfter(30, undefined, retry, 1), 5_000);
  assert.equal(pauseAfter(1, 2_000, retry, 0), 2_000);
  assert.equal(pauseAfter(1, 5_001, retry, 0), undefined);
  assert.equal(retryAfter("2"), 2_000);
  assert.equal(retryAfter("Tue, 01 Dec 2026 10:00:05 GMT", Date.UTC(2026, 11, 1, 10)), 5_000);
  assert.equal(retryAfter("Tue, 01 Dec 2026 10:00:05 GMT", Date.UTC(2026, 11, 2)), 0);
  for (const nothing of [null, "", "soon"]) assert.equal(retryAfter(nothing), undefined);
});

test("an answer that never comes is a timeout; a caller who gives up is obeyed", async (t) => {
  const server = await serve(t, hang);
  const billing = client(server.url, { timeoutMs: 50, retry: { ...QUICK, attempts: 2 } });
  const late = await caught(billing.organization("a").usage());
  assert.deepEqual([late.code, late.status, server.requests.length], ["timeout", 0, 2]);
  const stop = new AbortController();
  const asked = caught(client(server.url).organization("a").usage({ signal: stop.signal }));
  stop.abort();
  assert.equal((await asked).code, "aborted");
});

test("nobody there is unreachable", async (t) => {
  const server = await serve(t, hang);
  await new Promise((done) => server.server.close(done));
  assert.equal((await caught(client(server.url).organization("a").usage())).code, "unreachable");
});

test("a redirect is not followed, and the key goes nowhere else", async (t) => {
  const other = await serve(t, json(200, {}));
  const server = await serve(t, (response) => {
    response.writeHead(307, { location: `${other.url}/stolen` });
    response.end();
  });
  assert.equal((await caught(client(server.url).organization("a").usage())).code, "redirected");
  assert.equal(other.requests.length, 0);
});

test("what is not JSON has a code, too", async (t) => {
  const page = (status) => (response) => {
    response.writeHead(status, { "content-type": "text/html" });
    response.end("<h1>Bad Gateway</h1>");
  };
  const server = await serve(t, page(502), page(502), page(502), page(200));
  const billing = client(server.url);
  assert.equal((await caught(billing.organization("a").usage())).code, "http_502");
  assert.equal((await caught(billing.organization("a").usage())).code, "invalid_answer");
});

test("an id of any letters is sent as it is", async (t) => {
  const server = await serve(t, json(200, { data: [] }));
  await client(server.url).organization("Müller & Söhne 東京").usage();
  const sent = Buffer.from(server.requests[0].headers["x-organization"], "latin1").toString("utf8");
  assert.equal(sent, "Müller & Söhne 東京");
  await client(server.url).organizations.get("a/b ?");
  assert.equal(server.requests[1].url, "/api/organizations/a%2Fb%20%3F");
});

test("a key is for those that it is for", () => {
  const at = (key) => new Billing({ url: "http://127.0.0.1:1", key });
  assert.throws(() => at("vcp_1").organization(), /needs the id/);
  assert.throws(() => at("vck_1").organization("acme"), /cannot name another/);
  assert.throws(() => at("vcp_1").organization(""), /1 to 255/);
  assert.ok(at("vck_1").organization());
  assert.ok(at(() => "ey.a.token").organization());
  assert.throws(() => new Billing({ url: "billing", key: "k" }), /url/);
  assert.throws(() => new Billing({ url: "http://b", key: "" }), /key/);
  assert.throws(() => new Billing({ url: "http://b", key: "k", onUnavailable: "maybe" }), /onUnavailable/);
});

test("a key that changes is asked for each time", async (t) => {
  const server = await serve(t, problem(503, "x"), json(200, { data: [] }));
  let count = 0;
  await client(server.url, { key: async () => `t${++count}` }).organization().usage();
  assert.deepEqual(server.requests.map((one) => one.headers.authorization), ["Bearer t1", "Bearer t2"]);
});

test("a key that does not come is waited for as long as an answer", async (t) => {
  const server = await serve(t, json(200, { data: [] }));
  let asked = 0;
  const key = () => {
    asked += 1;
    return new Promise(() => undefined);
  };
  const billing = client(server.url, { key, timeoutMs: 20, checkTimeoutMs: 60 });
  const acme = billing.organization("acme");
  await assert.rejects(acme.usage(), { code: "timeout", status: 0, detail: "no key within 20 ms" });
  assert.equal(asked, 3);
  const { allowed, source, code } = await acme.check("api_calls");
  assert.deepEqual([allowed, source, code], [false, "unavailable", "timeout"]);
  // Who gives up does not wait for it either.
  const stop = new AbortController();
  const patient = client(server.url, { key }).organization("acme").usage({ signal: stop.signal });
  stop.abort();
  await assert.rejects(patient, { code: "aborted" });
  // One that comes at last is used.
  const slow = client(server.url, { key: () => new Promise((resolve) => setTimeout(resolve, 5, "late")) });
  await slow.organization("acme").usage();
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].headers.authorization, "Bearer late");
});
