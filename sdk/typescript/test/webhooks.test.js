import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { test } from "node:test";

import { verifyWebhook, WebhookError } from "../dist/index.js";

const secret = () => `whsec_${randomBytes(32).toString("base64")}`;
const sign = (key, id, at, body) =>
  `v1,${createHmac("sha256", Buffer.from(key.slice(6), "base64")).update(`${id}.${at}.`).update(body).digest("base64")}`;
const now = new Date(1_795_867_200_000);
const AT = "1795867200";
const event = JSON.stringify({ specversion: "1.0", id: "e1", type: "plan.changed", data: { plan: { tier: "münchen" } } });
const signed = (key, body = event, at = AT, id = "e1") => ({ "webhook-id": id, "webhook-timestamp": at, "webhook-signature": sign(key, id, at, body) });
const refused = (code, ...asked) => assert.rejects(verifyWebhook(...asked), (error) => error instanceof WebhookError && error.code === code);

test("an event is read however its parts come", async () => {
  const key = secret();
  const headers = signed(key);
  const upper = { "Webhook-Id": "e1", "Webhook-Timestamp": [AT], "WEBHOOK-SIGNATURE": headers["webhook-signature"] };
  for (const body of [event, Buffer.from(event), new TextEncoder().encode(event).buffer]) {
    for (const given of [headers, new Headers(headers), upper]) {
      const read = await verifyWebhook(body, given, key, { now });
      assert.equal(read.data.plan.tier, "münchen");
    }
  }
});

test("the specification's own example verifies", async () => {
  const headers = { "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" };
  // It is signed by that secret, and is no event of ours.
  await refused("payload_invalid", '{"test": 2432232314}', headers, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", { now: new Date(1_614_265_330_000) });
});

test("either secret of a rotation does, and either signature", async () => {
  const [old, young] = [secret(), secret()];
  const both = { ...signed(old), "webhook-signature": `v2,xx v1,AAAA ${sign(old, "e1", AT, event)} ${sign(young, "e1", AT, event)}` };
  for (const known of [old, young, [secret(), young], `${secret()} , ${old}`]) {
    assert.equal((await verifyWebhook(event, both, known, { now })).id, "e1");
  }
  await refused("signature_invalid", event, both, secret(), { now });
});

test("what is forged, old, or nothing is refused", async () => {
  const key = secret();
  const good = signed(key);
  await refused("signature_invalid", event.replace("münchen", "munchen"), good, key, { now });
  await refused("signature_invalid", event, { ...good, "webhook-id": "e2" }, key, { now });
  await refused("signature_invalid", event, { ...good, "webhook-signature": good["webhook-signature"].replace("v1,", "v1a,") }, key, { now });
  for (const nothing of ["v1,", "v1,!!!", "x", "v1,AA==".repeat(3)]) {
    await refused("signature_invalid", event, { ...good, "webhook-signature": nothing }, key, { now });
  }
  for (const name of Object.keys(good)) await refused("headers_missing", event, { ...good, [name]: undefined }, key, { now });
  await refused("headers_missing", event, { ...good, "webhook-signature": [good["webhook-signature"], "v1,x"] }, key, { now });
  for (const at of ["1795866899", "1795867501", "-1", "1e9", "NaN", "9".repeat(30)]) {
    await refused("timestamp_out_of_tolerance", event, signed(key, event, at), key, { now });
  }
  assert.ok(await verifyWebhook(event, signed(key, event, "1795866899"), key, { now, toleranceSeconds: 301 }));
  for (const wrong of ["", [], "whsec_", "whsec_!!!!", "whsec_c2hvcnQ="]) await refused("secret_invalid", event, good, wrong, { now });
  for (const body of ["[]", "null", "{", '{"specversion":"1.0","id":"other","type":"t","data":{}}']) {
    await refused("payload_invalid", body, signed(key, body), key, { now });
  }
});
