// Runs the package where there are web APIs and nothing else, as edge runtimes have them. Reads
// {package, base, key} and prints what came of it.
'use strict';

const fs = require('node:fs');
const vm = require('node:vm');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const WEB = [
  'AbortController', 'AbortSignal', 'Headers', 'Request', 'Response', 'TextDecoder', 'TextEncoder', 'URL', 'URLSearchParams',
  'atob', 'clearTimeout', 'console', 'crypto', 'fetch', 'setTimeout',
];

const WORKER = `
  import { Billing, createBillingHandler, verifyWebhook } from './dist/index.js';
  export async function work({ base, key }) {
    const billing = new Billing({ url: base, key, state: { mode: 'ask' } });
    const own = billing.organization();
    const { allowed, usage } = await own.check('api_calls', 2, { consume: true });
    own.track('api_calls', 3);
    const left = await billing.flush();
    const handler = createBillingHandler(billing, { authorize: () => ({}) });
    const answer = await handler(new Request('https://product.example/api/billing/state'));
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    const headers = {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek', 'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    };
    const now = new Date(1614265330000);
    const code = (body) => verifyWebhook(body, headers, secret, { now }).catch((error) => error.code);
    // By its signature it is the sender's; it is no event.
    const verified = [await code('{"test": 2432232314}'), await code('{"test": 2432232315}')];
    return JSON.stringify({
      allowed, usage, left, total: (await own.usageOf('api_calls')).usage, plan: (await answer.json()).plan.tier,
      again: (await own.state()).plan.tier, verified, undelivered: await billing.close(),
    });
  }
`;

async function main() {
  const esbuild = require(`${asked.package}/node_modules/esbuild`);
  const made = await esbuild.build({
    stdin: { contents: WORKER, loader: 'js', resolveDir: asked.package },
    bundle: true, format: 'iife', globalName: 'worker', platform: 'neutral', minify: true, write: false, logLevel: 'error',
  });
  const [{ text }] = made.outputFiles;
  const globals = Object.fromEntries(WEB.map((name) => [name, globalThis[name]]));
  const context = vm.createContext(globals);
  vm.runInContext(text, context);
  const said = JSON.parse(await context.worker.work(asked));
  return { ...said, small: text.length < 40_000 };
}

main().then(
  (said) => process.stdout.write(JSON.stringify(said)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
