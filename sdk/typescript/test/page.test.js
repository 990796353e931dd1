import assert from "node:assert/strict";
import { test } from "node:test";

import { BillingClient } from "../dist/react/client.js";
import { formatAmount } from "../dist/react/money.js";
import { json, problem, serve, until } from "./server.js";

test("a page with a service key asks nothing", async (t) => {
  const server = await serve(t, json(200, {}));
  const client = new BillingClient({ baseUrl: server.url, headers: () => ({ authorization: "Bearer vcp_1" }) });
  await client.refresh();
  assert.match(client.getSnapshot().error.detail, /no place in a page/);
  assert.equal(server.requests.length, 0);
});

test("a page keeps what it knows while nobody answers, and says so", async (t) => {
  let up = true;
  const waiting = [];
  const server = await serve(t, (response, request) => {
    if (!up) return problem(403, "forbidden")(response);
    if (request.url.startsWith("/state?")) return waiting.push(response);
    json(200, request.url.startsWith("/state") ? { stateVersion: 1 } : { data: [], nextCursor: null })(response);
  });
  const client = new BillingClient({ baseUrl: server.url, headers: () => ({ authorization: "Bearer token" }) });
  const stop = client.subscribe(() => undefined);
  await until(() => waiting.length === 1);
  assert.equal(server.requests[0].headers.authorization, "Bearer token");
  up = false;
  problem(403, "forbidden")(waiting.pop());
  await until(() => client.getSnapshot().error);
  assert.deepEqual([client.getSnapshot().state.stateVersion, client.getSnapshot().error.code], [1, "forbidden"]);
  up = true;
  await until(() => waiting.length === 1);
  assert.equal(client.getSnapshot().error, null);
  stop();
  await until(() => waiting[0].destroyed);
});

test("amounts are written by their currency", () => {
  assert.equal(formatAmount(9900, "usd", "en-US"), "$99.00");
  assert.equal(formatAmount(9900, "jpy", "en-US"), "¥9,900");
  assert.equal(formatAmount(1500, "kwd", "en-US").replace(/\s/, " "), "KWD 1.500");
});
