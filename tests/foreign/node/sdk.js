// A product that does everything with the package alone. Reads {package, base, key, own, product}
// and prints what came of each step.
'use strict';

const fs = require('node:fs');
const net = require('node:net');
const { once } = require('node:events');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const CARD = { action: 'pay', number: '4242424242424242' };

/** Passes everything on, but for answers that are to be lost and connections that are to fail. */
async function proxy(to) {
  const { hostname, port } = new URL(to);
  const state = { lose: 0, down: false };
  const server = net.createServer((client) => {
    if (state.down) return client.destroy();
    const upstream = net.connect(Number(port), hostname);
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    client.on('error', end).on('close', end).on('data', (bytes) => {
      if (state.down) end();
      else upstream.write(bytes);
    });
    upstream.on('error', end).on('close', end).on('data', (bytes) => {
      if (state.lose === 0) return client.write(bytes);
      // The service has done it, and nobody hears of it.
      state.lose -= 1;
      end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { state, url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

async function main() {
  const { Billing, requiresAction } = await import(`${asked.package}/dist/index.js`);
  const lost = [];
  const client = (more) => new Billing({
    url: asked.base, key: asked.key, onLost: (one) => lost.push(one), onError: () => {},
    queue: { flushIntervalMs: 600_000 }, retry: { minDelayMs: 10, maxDelayMs: 2_000 },
    // A slow machine is no outage.
    checkTimeoutMs: 60_000, ...more,
  });
  const code = (promise) => promise.then(() => 'it succeeded', (error) => error.code);
  const said = {};
  const billing = client();
  const acme = billing.organization('acme');

  const made = [await billing.organizations.put('acme', { name: 'Acme' }), await billing.organizations.put('acme', { name: 'Acme' })];
  said.made = made.map((one) => one.externalId);
  const first = await acme.state();
  said.atFirst = [first.plan.tier, first.subscription];
  said.tiers = (await acme.plans()).map((plan) => plan.tier).sort();

  const heard = new Promise((resolve) => {
    acme.watch((state) => state.plan.tier === 'standard' && resolve(state.plan.tier));
  });
  const checkout = await acme.checkout({
    planTier: 'standard', successUrl: `${asked.product}/ok?c={CHECKOUT_SESSION_ID}`, cancelUrl: `${asked.product}/no`,
  });
  const early = await acme.completeCheckout(checkout.id);
  await fetch(checkout.url, { method: 'POST', body: new URLSearchParams(CARD), redirect: 'manual' });
  const done = await acme.completeCheckout(checkout.id);
  said.completed = [early.done, done.done, done.planTier, done.status];
  said.after = (await acme.state()).plan.tier;
  said.heard = await heard;
  const { previewToken } = await acme.preview({ planTier: 'enterprise' });
  const changed = await acme.changePlan({ planTier: 'enterprise', previewToken });
  said.changed = [requiresAction(changed), changed.planTier];
  said.again = await code(acme.changePlan({ planTier: 'enterprise' }));
  said.features = typeof (await acme.features()) === 'object';

  const decision = await acme.check('api_calls', 3, { consume: true });
  said.checked = [decision.allowed, decision.usage, decision.source];
  acme.track('api_calls', 2);
  acme.track('llm_tokens', '7.0');
  acme.track('agent_executions', 1n, { metadata: { agent: 'a' } });
  acme.track('nonsense');
  await billing.flush();
  said.told = billing.stats();
  said.refused = lost.splice(0).map((one) => [one.event.metric, one.code]);

  const hold = await acme.reserve('agent_executions', 5);
  const confirmed = await hold.confirm(2);
  said.held = [hold.allowed, confirmed.status, confirmed.counted];
  await (await acme.reserve('agent_executions', 5)).release();
  const mistake = acme.track('api_calls', 4);
  await billing.flush();
  await acme.takeBack(mistake);
  said.takenBack = (await acme.usageOf('api_calls')).usage;

  const between = await proxy(asked.base);
  const broken = client({ url: between.url, retry: { attempts: 2, minDelayMs: 10, maxDelayMs: 2_000 } });
  const there = broken.organization('acme');
  between.state.lose = 1;
  const repeated = await there.check('agent_executions', 4, { consume: true });
  said.brokenCheck = [repeated.allowed, repeated.duplicate, repeated.source];
  there.track('api_calls', 5);
  between.state.lose = 1;
  await broken.flush();
  const { sent, duplicates } = broken.stats();
  said.brokenBatch = { sent, duplicates };
  between.state.down = true;
  const denied = await there.check('agent_executions', 2, { consume: true });
  const allowed = await there.check('agent_executions', 2, { consume: true, onUnavailable: 'allow' });
  said.down = [denied.allowed, allowed.allowed, allowed.source, broken.pending];
  between.state.down = false;
  said.toldLater = await broken.flush();
  between.state.lose = 2;
  await there.check('agent_executions', 3, { consume: true, onUnavailable: 'allow' });
  await broken.flush();
  said.countedBefore = { duplicates: broken.stats().duplicates - duplicates, lost: lost.splice(0) };
  const other = client({ url: between.url, retry: { attempts: 2, minDelayMs: 10, maxDelayMs: 2_000 } });
  const lasting = await other.organization('acme').reserve('agent_executions', 6);
  between.state.lose = 2;
  const late = await lasting.confirm(2);
  said.confirmedBefore = [late.status, await other.flush(), lost.splice(0)];

  const theirs = client({ key: () => asked.own });
  said.selected = await code(theirs.organization('acme').state());
  said.own = (await theirs.organization().state()).organization.name;
  const used = await acme.usage();
  said.usage = Object.fromEntries(used.filter((one) => one.usage > 0).map((one) => [one.metric, one.usage]));
  await acme.cancel({ immediately: true, reason: 'the test is over' });
  said.ended = (await acme.state()).plan.tier;
  for (const one of [billing, broken, other, theirs]) await one.close();
  between.close();
  return said;
}

main().then(
  (said) => process.stdout.write(JSON.stringify(said)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
