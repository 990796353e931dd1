import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { test } from "node:test";

import { Billing, createBillingHandler } from "../dist/index.js";
import { nodeListener } from "../dist/node.js";
import { json, problem, QUICK, serve } from "./server.js";

const admin = { organization: "acme", manage: true };

async function world(t, visitor, ...replies) {
  const server = await serve(t, ...replies);
  const billing = new Billing({ url: server.url, key: "vcp_k", retry: QUICK });
  const handler = createBillingHandler(billing, { authorize: () => visitor });
  const ask = (method, path, { body, ...headers } = {}) =>
    handler(new Request(`http://product.example${path}`, { method, headers, ...(body ? { body } : {}) }));
  return { server, handler, ask };
}

const JSON_TYPE = { "content-type": "application/json" };

test("a page reads what its visitor may, for their organization alone", async (t) => {
  const it = await world(t, { organization: "acme" }, json(200, { stateVersion: 7 }, { etag: '"7"', "set-cookie": "a=b", "x-request-id": "r" }));
  const answer = await it.ask("GET", "/api/billing/state?after=6&wait=25&organization=globex", { "x-organization": "globex", cookie: "c", authorization: "Bearer x" });
  assert.deepEqual([answer.status, await answer.json()], [200, { stateVersion: 7 }]);
  assert.deepEqual([answer.headers.get("etag"), answer.headers.get("set-cookie"), answer.headers.get("x-request-id")], ['"7"', null, "r"]);
  const [sent] = it.server.requests;
  assert.equal(sent.url, "/api/billing/state?after=6&wait=25");
  assert.deepEqual([sent.headers["x-organization"], sent.headers.authorization, sent.headers.cookie], ["acme", "Bearer vcp_k", undefined]);
});

test("what is not for pages is not there", async (t) => {
  const it = await world(t, admin, json(200, {}));
  const paths = ["/usage/events", "/usage/check", "/invoices", "/../organizations", "/state/", "/checkout/a%2Fb/complete", "", "/portal"];
  for (const path of paths) {
    for (const method of ["GET", "POST"]) {
      const answer = await it.ask(method, `/api/billing${path}`, method === "POST" ? { ...JSON_TYPE, body: "{}" } : {});
      assert.equal(answer.status, 404, `${method} ${path}`);
    }
  }
  assert.equal((await it.ask("GET", "/api/organizations")).status, 404);
  assert.equal(it.server.requests.length, 0);
});

test("nobody, a reader, and another site's page change nothing", async (t) => {
  const change = ["PUT", "/api/billing/subscription", { ...JSON_TYPE, body: "{}" }];
  const cases = [
    [null, change, 401, "unauthenticated"],
    [{ organization: "acme" }, change, 403, "forbidden"],
    [{ organization: "acme" }, ["POST", "/api/billing/subscription/preview", { ...JSON_TYPE, body: "{}" }], 403, "forbidden"],
    [admin, ["POST", "/api/billing/subscription", { "content-type": "text/plain", body: "{}" }], 403, "cross_site"],
    [admin, ["DELETE", "/api/billing/subscription", { "sec-fetch-site": "cross-site" }], 403, "cross_site"],
    [admin, ["PUT", "/api/billing/subscription", { ...JSON_TYPE, body: " ".repeat(70_000) }], 413, "body_too_large"],
  ];
  for (const [visitor, asked, status, code] of cases) {
    const it = await world(t, visitor, json(200, {}));
    const answer = await it.ask(...asked);
    assert.deepEqual([answer.status, (await answer.json()).code], [status, code]);
    assert.equal(it.server.requests.length, 0);
  }
});

test("a change is passed on with the page's key, or once", async (t) => {
  const it = await world(t, admin, problem(503, "stripe_unreachable"), json(200, { status: "active" }), problem(503, "stripe_unreachable"));
  const body = '{"planTier":"standard"}';
  const answer = await it.ask("PUT", "/api/billing/subscription", { ...JSON_TYPE, "idempotency-key": "k", body });
  assert.equal((await answer.json()).status, "active");
  assert.deepEqual(it.server.requests.map((one) => [one.headers["idempotency-key"], one.text]), [["k", body], ["k", body]]);
  const failed = await it.ask("DELETE", "/api/billing/subscription?immediately=true");
  assert.deepEqual([failed.status, (await failed.json()).code, it.server.requests.length], [503, "stripe_unreachable", 3]);
  assert.equal(it.server.requests[2].url, "/api/billing/subscription?immediately=true");
});

test("problems are passed on, but for the product's own", async (t) => {
  const it = await world(t, admin, problem(409, "same_plan", {}, { field: "planTier" }), problem(401, "unauthenticated"));
  const asked = () => it.ask("POST", "/api/billing/subscription/preview", { ...JSON_TYPE, body: "{}" });
  const refused = await asked();
  assert.equal(refused.headers.get("content-type"), "application/problem+json");
  const { code, field, detail } = await refused.json();
  assert.deepEqual([refused.status, code, field, detail], [409, "same_plan", "planTier", "it is same_plan"]);
  const key = await asked();
  assert.deepEqual([key.status, (await key.json()).code], [502, "billing_misconfigured"]);
});

test("Node serves it", async (t) => {
  const it = await world(t, admin, (response, request) => json(200, { got: request.body })(response));
  const server = createServer(nodeListener(it.handler)).listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  const url = `http://127.0.0.1:${server.address().port}/api/billing/subscription/preview`;
  const asked = (body) => fetch(url, { method: "POST", headers: JSON_TYPE, body });
  const answer = await asked('{"planTier":"münchen"}');
  assert.deepEqual(await answer.json(), { got: { planTier: "münchen" } });
  assert.equal((await asked(`"${"x".repeat(200_000)}"`)).status, 413);
});
