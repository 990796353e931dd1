// A product with a page of the package's components, in Chromium. Reads
// {package, base, key, organization, port, token} and prints what was seen, and what was wrong.
'use strict';

const fs = require('node:fs');
const { once } = require('node:events');
const { createServer } = require('node:http');
const { faultsOf, launch } = require('./browser');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));

const PAGE = `
  import { StrictMode } from 'react';
  import { createRoot } from 'react-dom/client';
  import { BillingProvider, GraceBanner, PlanPicker, UsageMeter, useBilling } from '@valuecanvas/billing/react';

  function Bill() {
    const { state, loading, error, client, feature } = useBilling();
    const choose = ({ planTier, previewToken }) =>
      state.subscription ? client.changePlan({ planTier, previewToken }) : client.subscribeTo({ planTier, previewToken });
    return (
      <main>
        <h1>Billing</h1>
        <p id="plan">{loading ? 'loading' : state?.plan.tier}</p>
        <p id="error">{error?.code}</p>
        <p>{String(feature('nothing'))}</p>
        <GraceBanner labels={{ api_calls: 'API calls' }} locale="en-US" />
        <UsageMeter metric="api_calls" label="API calls" locale="en-US" />
        <UsageMeter metric="nothing" />
        <PlanPicker onChoose={choose} locale="en-US" />
      </main>
    );
  }
  const token = new URLSearchParams(location.search).get('token');
  // By itself with a user's own token, or by the product.
  const options = token ? { baseUrl: BASE + '/api/billing', headers: () => ({ authorization: 'Bearer ' + token }) } : {};
  createRoot(document.getElementById('root')).render(
    <StrictMode><BillingProvider usageIntervalMs={1_000} {...options}><Bill /></BillingProvider></StrictMode>,
  );
`;

const HTML = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Billing</title><link rel="icon" href="data:,">
  </head><body><div id="root"></div><script type="module" src="/app.js"></script></body></html>`;

async function bundle() {
  const esbuild = require(`${asked.package}/node_modules/esbuild`);
  const made = await esbuild.build({
    stdin: { contents: PAGE, loader: 'jsx', resolveDir: asked.package },
    alias: { '@valuecanvas/billing/react': `${asked.package}/dist/react/index.js` },
    bundle: true, format: 'esm', jsx: 'automatic', write: false, logLevel: 'silent',
    // With React's warnings.
    define: { 'process.env.NODE_ENV': '"development"', BASE: JSON.stringify(asked.base) },
  });
  return made.outputFiles[0].text;
}

/** The product: its page, and what its page may ask, by who has logged in. */
async function product(billing, { createBillingHandler }, { nodeListener }) {
  const script = await bundle();
  const handler = nodeListener(createBillingHandler(billing, {
    authorize: (request) => {
      const user = /user=(\w+)/.exec(request.headers.get('cookie') ?? '')?.[1];
      return user && { organization: asked.organization, manage: user === 'admin' };
    },
  }));
  const server = createServer((request, response) => {
    if (request.url.startsWith('/api/billing/')) return handler(request, response);
    const asksScript = request.url === '/app.js';
    response.writeHead(200, { 'content-type': asksScript ? 'text/javascript' : 'text/html' });
    response.end(asksScript ? script : HTML);
  });
  server.listen(asked.port, '127.0.0.1');
  await once(server, 'listening');
  return { server, url: `http://127.0.0.1:${asked.port}` };
}

async function main() {
  const core = await import(`${asked.package}/dist/index.js`);
  const node = await import(`${asked.package}/dist/node.js`);
  const billing = new core.Billing({ url: asked.base, key: asked.key });
  const acme = billing.organization(asked.organization);
  await acme.check('api_calls', 900, { consume: true });
  const { server, url } = await product(billing, core, node);
  const browser = await launch();
  try {
    return await walk(browser, url, acme);
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
    await billing.close();
  }
}

async function walk(browser, url, acme) {
  const found = { seen: [], faults: [] };
  const open = async (user, token) => {
    const context = await browser.newContext();
    context.setDefaultTimeout(30_000);
    if (user) await context.addCookies([{ name: 'user', value: user, url }]);
    const page = await context.newPage();
    page.on('console', (message) => {
      if (message.type() === 'error' && !/status of 40/.test(message.text())) found.faults.push(message.text());
    });
    page.on('pageerror', (error) => found.faults.push(String(error)));
    page.on('request', (request) => {
      const asks = request.url();
      const own = asks.startsWith(`${url}/`) || asks.startsWith('data:') || (token && asks.startsWith(asked.base));
      if (!own) found.faults.push(`asks ${asks}`);
      if (token && asks.startsWith(`${url}/api`)) found.faults.push('the product is asked');
      if (JSON.stringify(request.headers()).includes(asked.key)) found.faults.push('the page has the key');
    });
    await page.goto(`${url}/${token ? `?token=${token}` : ''}`);
    return page;
  };
  const look = async (page, name) => {
    for (const fault of await faultsOf(page)) found.faults.push(`${name}: ${fault}`);
  };
  const see = async (page, selector, text) => {
    await page.locator(selector).filter({ hasText: text }).waitFor();
    found.seen.push(text);
  };

  const page = await open('admin');
  await see(page, '#plan', 'free');
  await see(page, '[data-billing=usage-meter]', '900 of 1,000 used');
  const meter = page.getByRole('meter', { name: 'API calls' });
  if ((await meter.getAttribute('aria-valuetext')) !== '900 of 1,000 used') found.faults.push('the meter says nothing');
  await look(page, 'at first');
  await acme.check('api_calls', 101, { consume: true });
  await see(page, '[role=status] p', 'The quota of 1,000 API calls is used up.');
  await look(page, 'in grace');

  // By keyboard alone.
  const current = page.getByRole('radio', { checked: true });
  if ((await current.count()) !== 1) found.faults.push('no plan is the current one');
  const standard = page.getByRole('radio', { name: /Standard/ });
  await standard.focus();
  await page.keyboard.press('Space');
  await see(page, '[data-billing=due-now]', '$99.00');
  await look(page, 'with a price');
  await page.keyboard.press('Enter');
  await see(page, '#plan', 'standard');
  await see(page, '[data-billing=usage-meter]', '0 of 100,000 used');
  await page.locator('[role=status] p').waitFor({ state: 'detached' });
  found.seen.push('no banner');

  // Somebody else changes it: the page hears of it.
  await acme.changePlan({ planTier: 'enterprise' });
  await see(page, '#plan', 'enterprise');
  await page.context().close();
  const direct = await open(null, asked.token);
  await see(direct, '#plan', 'enterprise');
  await direct.getByRole('radio', { name: /Standard/ }).click();
  await see(direct, '[data-billing=due-now]', '$0.00');
  await direct.context().close();

  const reader = await open('reader');
  await reader.getByRole('radio', { name: /Standard/ }).click();
  await reader.getByRole('alert').filter({ hasText: 'for those who manage the billing' }).waitFor();
  if (await reader.getByRole('button').isEnabled()) found.faults.push('a reader may confirm');
  found.seen.push('refused');
  await reader.context().close();
  const stranger = await open(null);
  await see(stranger, '#error', 'unauthenticated');
  await stranger.context().close();
  return found;
}

main().then(
  (found) => process.stdout.write(JSON.stringify(found)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
