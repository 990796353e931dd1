// Signs operators in to the console in Chromium: by `oidc-provider` on loopback, and by a password
// with a one-time code. axe looks at each page. Prints the provider's address on a line, reads
// {provider: {base, client, secret}, codes: {base, email, password}, shots?} on one, and prints
// what it found.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const readline = require('node:readline');
const { faultsOf, launch } = require('./browser');

const GROUPS = { ada: ['staff', 'billing-operators'], ben: ['billing-support'], eve: ['staff'] };

async function serve(server, issuer, { base, client, secret }) {
  // What it says of itself is no part of the answer.
  console.info = console.error;
  console.warn = console.error;
  const { default: Provider } = await import('oidc-provider');
  const provider = new Provider(issuer, {
    clients: [{
      client_id: client,
      client_secret: secret,
      redirect_uris: [`${base}/console/sign-in/oidc/callback`],
      response_types: ['code'],
      grant_types: ['authorization_code'],
    }],
    claims: { openid: ['sub'], email: ['email'], profile: ['groups'] },
    pkce: { required: () => true },
    cookies: { keys: [crypto.randomBytes(16).toString('hex')] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.com`, groups: GROUPS[id] || [] }),
    }),
  });
  server.on('request', provider.callback());
}

/// The code of an authenticator, `ahead` steps from now.
function code(base32, ahead) {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...base32].map((c) => alphabet.indexOf(c).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30000) + ahead));
  const mac = crypto.createHmac('sha1', key).update(step).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1000000).padStart(6, '0');
}

function looker(found, shots) {
  return async (page, shot) => {
    found.pages += 1;
    if (shots) await page.screenshot({ path: `${shots}/${shot}.png`, fullPage: true });
    for (const fault of await faultsOf(page)) found.faults.push(`${shot}: ${fault}`);
  };
}

async function heading(page, text) {
  await page.getByRole('heading', { level: 1, name: text }).waitFor({ timeout: 25000 });
}

/// By the identity provider: an operator, and somebody who is none.
async function byProvider(browser, asked, look) {
  for (const [user, lands] of [['ada', 'Home'], ['ben', 'Home'], ['eve', 'Sign in']]) {
    const context = await browser.newContext();
    // The provider's own page asks for a font elsewhere.
    await context.route((url) => url.hostname !== '127.0.0.1', (route) => route.abort());
    const page = await context.newPage();
    await page.goto(`${asked.base}/console/organizations`);
    await heading(page, 'Sign in');
    await look(page, `${user}-sign-in`);
    await page.getByRole('link', { name: /^Sign in by/ }).click();
    await page.locator('input[name=login]').fill(user);
    await page.locator('input[name=password]').fill('anything');
    await page.locator('button[type=submit]').click();
    await page.getByRole('button', { name: 'Continue' }).click();
    if (user === 'eve') {
      await page.getByRole('heading', { name: 'You are not signed in' }).waitFor();
      await look(page, 'eve-refused');
      await page.goto(`${asked.base}/console`);
      await heading(page, lands);
    } else {
      await heading(page, 'Organizations');
      await page.getByRole('link', { name: 'Operators and keys' }).click();
      await heading(page, 'Operators and keys');
      await look(page, `${user}-operators`);
      await page.getByRole('link', { name: 'Your account' }).click();
      await heading(page, 'Your account');
      await look(page, `${user}-account`);
      await page.getByRole('link', { name: 'Home' }).click();
      await heading(page, lands);
      await page.getByRole('button', { name: 'Sign out' }).click();
      await heading(page, 'Sign in');
    }
    await context.close();
  }
}

/// By a password and a code, from setting it up to signing in with it.
async function byCode(browser, asked, options, name, look) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const password = async () => {
    await page.goto(`${asked.base}/console`);
    await heading(page, 'Sign in');
    await page.getByLabel('E-mail address').fill(asked.email);
    await page.getByLabel('Password').fill(asked.password);
    await page.keyboard.press('Enter');
  };
  await password();
  await heading(page, 'Home');
  await page.getByRole('link', { name: 'Your account' }).click();
  await heading(page, 'Your account');
  await look(page, `${name}-account`);
  await page.getByRole('link', { name: 'Set up an authenticator' }).click();
  await heading(page, 'Set up an authenticator');
  await page.getByRole('img', { name: /^The secret/ }).waitFor();
  await look(page, `${name}-enrolment`);
  const secret = await page.locator('code').first().textContent();
  await page.getByLabel('Code that it shows now').fill(code(secret, 0));
  await page.getByLabel('Your password').fill(asked.password);
  await page.getByRole('button', { name: 'Use it' }).click();
  await heading(page, 'Second factor');
  await look(page, `${name}-recovery-codes`);
  const codes = (await page.locator('pre').textContent()).trim().split('\n');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await heading(page, 'Sign in');

  await password();
  await page.getByLabel('Code', { exact: true }).fill('000000');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'You are not signed in' }).waitFor();
  await look(page, `${name}-wrong-code`);
  await page.getByLabel('Code', { exact: true }).fill(code(secret, 1));
  await page.keyboard.press('Enter');
  await heading(page, 'Home');
  await page.getByRole('link', { name: 'Your account' }).click();
  await look(page, `${name}-account-with-code`);
  await page.getByLabel(/or a recovery code/).fill(codes[0]);
  await page.getByRole('button', { name: 'Remove it' }).click();
  await page.getByRole('link', { name: 'Set up an authenticator' }).waitFor();
  await context.close();
}

async function main() {
  const server = http.createServer();
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  console.log(issuer);
  const lines = readline.createInterface({ input: process.stdin });
  const asked = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
  await serve(server, issuer, asked.provider);
  const browser = await launch();
  const found = { pages: 0, faults: [] };
  const look = looker(found, asked.shots);
  try {
    await byProvider(browser, asked.provider, look);
    await byCode(browser, asked.codes, {}, 'wide', look);
    const narrow = { viewport: { width: 390, height: 844 }, colorScheme: 'dark' };
    await byCode(browser, asked.codes, narrow, 'narrow', look);
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(found));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
