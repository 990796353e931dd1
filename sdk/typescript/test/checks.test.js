import assert from "node:assert/strict";
import { test } from "node:test";

import { Billing } from "../dist/index.js";
import { hang, json, ledger, problem, QUICK, reset, serve, until } from "./server.js";

const within = { allowed: true, metric: "api_calls", usage: 3, limit: 10, remaining: 7, percentage: 30, gracePeriod: null, code: null };
const client = (url, more = {}) => {
  const lost = [];
  const queue = { flushIntervalMs: 5, maxPauseMs: 20, ...more.queue };
  const billing = new Billing({ url, key: "vcp_k", retry: QUICK, onLost: (one) => lost.push(one), onError: () => {}, ...more, queue });
  return { billing, acme: billing.organization("acme"), lost };
};

test("a check is answered, and so is a refusal", async (t) => {
  const over = { ...within, allowed: false, usage: 10, remaining: 0, gracePeriodExpired: false };
  const server = await serve(t, json(200, within, { "x-quota-warning": "true" }), problem(402, "QUOTA_EXCEEDED", {}, over));
  const { acme } = client(server.url);
  const first = await acme.check("api_calls");
  assert.deepEqual([first.allowed, first.remaining, first.warning, first.source, first.id], [true, 7, true, "service", undefined]);
  assert.deepEqual(server.requests[0].body, { metric: "api_calls", quantity: "1", consume: false });
  const second = await acme.check("api_calls", 2, { consume: true });
  assert.deepEqual([second.allowed, second.code, second.remaining], [false, "QUOTA_EXCEEDED", 0]);
  assert.equal(server.requests[1].body.id, second.id);
});

test("a use whose answer is lost is asked about under the same id, and is none that was there before", async (t) => {
  const server = await serve(t, reset, json(200, { ...within, duplicate: true }));
  const { acme } = client(server.url);
  const own = await acme.check("api_calls", 1, { consume: true });
  assert.deepEqual([own.allowed, own.duplicate], [true, false]);
  assert.equal(server.requests[0].body.id, server.requests[1].body.id);
  assert.equal((await acme.check("api_calls", 1, { consume: true, id: "theirs" })).duplicate, true);
});

test("without the service uses are denied, or allowed and told later with the same ids", async (t) => {
  const { counted, take } = ledger();
  let up = false;
  const server = await serve(t, (response, request) => {
    if (!up) return problem(503, "database_unavailable")(response);
    return request.url.endsWith("/events") ? take(response, request) : json(200, within)(response);
  });
  const allowed = [];
  const { billing, acme, lost } = client(server.url, { onAllowed: (one) => allowed.push(one.id) });
  const denied = await acme.check("api_calls", 1, { consume: true });
  assert.deepEqual([denied.allowed, denied.source, denied.code, denied.error.status], [false, "unavailable", "database_unavailable", 503]);
  assert.equal(billing.pending, 0);
  const used = await acme.check("api_calls", 2, { consume: true, onUnavailable: "allow" });
  const asked = await acme.check("api_calls", 2, { onUnavailable: "allow" });
  assert.deepEqual([used.allowed, used.source, asked.allowed], [true, "unavailable", true]);
  assert.deepEqual([billing.pending, billing.stats().allowedUnavailable], [1, 2]);
  up = true;
  await until(() => billing.pending === 0);
  assert.deepEqual([...counted.keys()], [used.id]);
  assert.equal(counted.get(used.id).quantity, "2");
  assert.ok(Date.parse(counted.get(used.id).occurredAt) <= Date.now());
  assert.deepEqual([allowed, lost], [[used.id, undefined], []]);
});

test("a use that was counted, though nobody said so, is not told twice, nor taken for lost", async (t) => {
  // The check counts it without a time; with one, the id is another event's.
  const answer = (response, request) => {
    if (!request.url.endsWith("/events")) return reset(response);
    const results = request.body.events.map(({ id, occurredAt }) =>
      occurredAt ? { id, status: "rejected", code: "event_id_reused" } : { id, status: "duplicate" });
    json(200, { results })(response);
  };
  const server = await serve(t, answer);
  const { billing, acme, lost } = client(server.url, { onUnavailable: "allow" });
  assert.equal((await acme.check("api_calls", 1, { consume: true })).allowed, true);
  await until(() => billing.pending === 0);
  assert.equal(billing.stats().duplicates, 1);
  assert.deepEqual(lost, []);
  // Somebody else's id is told of.
  acme.track("api_calls", 1, { id: "taken" });
  await until(() => lost.length === 1);
  assert.equal(lost[0].code, "event_id_reused");
});

test("who asks too much is not let through for it; a mistake is the caller's", async (t) => {
  const server = await serve(t, problem(429, "too_many_usage_events", { "retry-after": "99" }), problem(400, "unknown_metric"), problem(401, "unauthenticated"));
  const { billing, acme } = client(server.url, { onUnavailable: "allow" });
  const much = await acme.check("api_calls", 1, { consume: true });
  assert.deepEqual([much.allowed, much.code, billing.pending], [false, "too_many_usage_events", 0]);
  await assert.rejects(acme.check("nonsense"), { code: "unknown_metric" });
  await assert.rejects(acme.check("api_calls"), { code: "unauthenticated" });
});

test("a metric that fails open is told later", async (t) => {
  const { counted, take } = ledger();
  const server = await serve(t, json(200, { allowed: true, metric: "api_calls", code: "failed_open" }), take);
  const { billing, acme } = client(server.url);
  const decision = await acme.check("api_calls", 1, { consume: true });
  assert.deepEqual([decision.allowed, decision.code, decision.source], [true, "failed_open", "unavailable"]);
  await until(() => billing.pending === 0);
  assert.deepEqual([...counted.keys()], [decision.id]);
});

test("a service that hangs holds a check for as long as it may, and then nobody", async (t) => {
  const server = await serve(t, hang);
  const { acme } = client(server.url, { checkTimeoutMs: 40, onUnavailable: "allow" });
  for (let n = 0; n < 3; n++) assert.equal((await acme.check("api_calls")).code, "timeout");
  const asked = server.requests.length;
  const next = await acme.check("api_calls");
  assert.deepEqual([next.allowed, next.code, server.requests.length], [true, "unreachable", asked]);
});

test("a reservation is confirmed with what was used, or given back", async (t) => {
  const held = { ...within, id: "h1", status: "held", quantity: 5, expiresAt: "2026-12-01T10:15:00Z" };
  const server = await serve(
    t,
    json(201, held), json(200, { id: "h1", status: "confirmed", held: 5, quantity: 3, counted: 3 }),
    json(201, held), problem(402, "QUOTA_EXCEEDED", {}, { counted: 5, refused: 4 }),
    json(201, held), json(204),
    problem(402, "QUOTA_EXCEEDED", {}, { ...within, allowed: false }),
  );
  const { acme } = client(server.url);
  const first = await acme.reserve("api_calls", 5, { id: "h1", ttlSeconds: 60 });
  assert.deepEqual([first.allowed, first.id, first.expiresAt], [true, "h1", held.expiresAt]);
  assert.deepEqual(server.requests[0].body, { metric: "api_calls", quantity: "5", id: "h1", ttlSeconds: 60 });
  assert.deepEqual(await first.confirm(3), { id: "h1", status: "confirmed", quantity: "3", counted: 3, refused: 0, code: null });
  assert.deepEqual([server.requests[1].url, server.requests[1].body], ["/api/billing/usage/reservations/h1/confirm", { quantity: "3" }]);
  const more = await (await acme.reserve("api_calls", 5)).confirm(9);
  assert.deepEqual([more.counted, more.refused, more.code], [5, 4, "QUOTA_EXCEEDED"]);
  const back = await acme.reserve("api_calls", 5);
  await back.release();
  assert.deepEqual([server.requests[5].method, server.requests[5].url], ["DELETE", `/api/billing/usage/reservations/${back.id}`]);
  const none = await acme.reserve("api_calls", 5);
  assert.deepEqual([none.allowed, none.expiresAt, none.code], [false, null, "QUOTA_EXCEEDED"]);
  assert.throws(() => none.confirm(1), TypeError);
});

test("what was used is told, though nothing is held any more or nobody answers", async (t) => {
  const { counted, take } = ledger();
  const held = { ...within, expiresAt: "2026-12-01T10:15:00Z" };
  let mode = "held";
  const server = await serve(t, (response, request) => {
    if (request.url.endsWith("/events")) return mode === "down" ? reset(response) : take(response, request);
    if (request.url.endsWith("/confirm")) return mode === "gone" ? problem(410, "reservation_expired")(response) : reset(response);
    return mode === "down" ? reset(response) : json(201, held)(response);
  });
  const { billing, acme } = client(server.url, { onUnavailable: "allow" });
  const expired = await acme.reserve("api_calls", 5);
  mode = "gone";
  assert.deepEqual([(await expired.confirm(2)).status, (await expired.confirm(0)).code], ["told_later", "reservation_expired"]);
  await until(() => billing.pending === 0);
  mode = "down";
  const never = await acme.reserve("api_calls", 5);
  assert.deepEqual([never.allowed, never.expiresAt, never.source], [true, null, "unavailable"]);
  assert.equal((await never.confirm(4)).status, "told_later");
  await never.release();
  mode = "held";
  await until(() => billing.pending === 0);
  assert.deepEqual([...counted].map(([id, event]) => [id, event.quantity]), [[expired.id, "2"], [never.id, "4"]]);
});

test("a confirmation that was counted, though nobody said so, is found to be", async (t) => {
  let confirms = 0;
  const server = await serve(t, (response, request) => {
    if (request.url.endsWith("/events")) {
      return json(200, { results: request.body.events.map(({ id }) => ({ id, status: "rejected", code: "event_id_reused" })) })(response);
    }
    if (!request.url.endsWith("/confirm")) return json(201, { ...within, expiresAt: "2026-12-01T10:15:00Z" })(response);
    confirms += 1;
    return confirms <= 3 ? reset(response) : json(200, { counted: 2 })(response);
  });
  const { billing, acme, lost } = client(server.url);
  const hold = await acme.reserve("api_calls", 5);
  assert.equal((await hold.confirm(2)).status, "told_later");
  await until(() => billing.pending === 0);
  assert.deepEqual([confirms, billing.stats().duplicates, lost], [4, 1, []]);
});
