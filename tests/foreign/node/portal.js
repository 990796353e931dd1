// Walks through the customer pages in Chromium, as a customer would, and has axe look at each
// page. Reads {base, stripe, links, shots?} and prints what it found.
'use strict';

const fs = require('node:fs');
const { chromium } = require('playwright-core');

const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const PASSES = {
  plain: { viewport: { width: 1280, height: 900 } },
  'without scripts': { viewport: { width: 1280, height: 900 }, javaScriptEnabled: false },
  'narrow and dark': { viewport: { width: 390, height: 844 }, colorScheme: 'dark' },
};
const LIMIT = 30000;

async function main(asked) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ],
  });
  try {
    const found = { pages: 0, faults: [], due: {} };
    for (const [name, options] of Object.entries(PASSES)) {
      await pass(browser, name, options, asked, found);
    }
    return found;
  } finally {
    await browser.close();
  }
}

async function pass(browser, name, options, asked, found) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(LIMIT);
  const page = await context.newPage();
  const scripts = options.javaScriptEnabled !== false;
  const keyboard = name === 'plain';
  page.on('console', (message) => {
    if (message.type() === 'error' && !/status of 4/.test(message.text())) {
      found.faults.push(`${name}: ${page.url()}: ${message.text()}`);
    }
  });
  page.on('request', (request) => {
    const own = request.url().startsWith(asked.base) || request.url().startsWith('data:');
    if (!own) found.faults.push(`${name}: asks ${request.url()}`);
  });
  const look = async (shot) => {
    found.pages += 1;
    if (asked.shots) {
      const file = `${asked.shots}/${name.replaceAll(' ', '-')}-${shot}.png`;
      await page.screenshot({ path: file, fullPage: true });
    }
    // Without scripts nothing can look, and the pages are the same.
    if (!scripts) return;
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    if (wide) found.faults.push(`${name}: ${shot} is wider than the window`);
    await page.evaluate(AXE);
    const run = (tags) => axe.run(document, { runOnly: { type: 'tag', values: tags } });
    const { violations } = await page.evaluate(run, TAGS);
    for (const one of violations) {
      const where = one.nodes.map((node) => node.html).slice(0, 3).join(' ');
      found.faults.push(`${name}: ${shot}: ${one.id}: ${one.help}: ${where}`);
    }
  };
  const heading = async (text) => {
    await page.getByRole('heading', { level: 1, name: text }).waitFor();
  };
  // By keyboard where that is the pass's part: what is focused is pressed.
  const press = async (target) => {
    if (!keyboard) return target.click();
    const wanted = await target.elementHandle();
    for (let n = 0; n < 80; n += 1) {
      await page.keyboard.press('Tab');
      if (await wanted.evaluate((node) => node === document.activeElement)) {
        return page.keyboard.press('Enter');
      }
    }
    found.faults.push(`${name}: ${page.url()}: ${await target.textContent()} is out of reach`);
    return target.click();
  };
  const section = (text) => page.getByRole('navigation').getByRole('link', { name: text });

  await page.goto(asked.links[name]);
  await heading('Overview');
  if (page.url().includes('code=')) found.faults.push(`${name}: the code stays in the address`);
  await page.getByRole('heading', { name: 'Your last payment failed' }).waitFor();
  await look('overview-past-due');

  // Pays what failed, on the stand-in's page, with another card.
  const away = page.getByRole('link', { name: /^Pay \$99\.00/ });
  const [payment] = await Promise.all([context.waitForEvent('page'), press(away)]);
  await payment.waitForLoadState();
  if (!payment.url().startsWith(asked.stripe)) found.faults.push(`${name}: paid at ${payment.url()}`);
  await payment.getByLabel(/^Card number/).fill('4242424242424242');
  await payment.getByRole('button', { name: 'Pay' }).click();
  await payment.getByText('This invoice is paid').waitFor();
  await payment.close();
  for (const end = Date.now() + LIMIT; ; ) {
    await page.goto(`${asked.base}/portal`);
    const failed = page.getByRole('heading', { name: 'Your last payment failed' });
    if ((await failed.count()) === 0) break;
    if (Date.now() > end) throw new Error('the payment is not seen');
  }
  await look('overview');

  // The card that was paid with is charged from now on.
  await press(section('Payment methods'));
  await heading('Payment methods');
  await look('cards');
  const good = page.getByRole('button', { name: /Visa ending in 4242/ });
  if ((await good.count()) > 0) {
    await press(good.first());
    await page.getByRole('heading', { name: 'This card is charged from now on' }).waitFor();
  }
  await press(page.getByRole('link', { name: /^Remove/ }).first());
  await heading('Remove this card?');
  await look('remove-card');
  await press(page.getByRole('link', { name: 'Keep it' }));

  // Upgrades, knowing the price.
  await press(section('Plans'));
  await heading('Plans');
  await look('plans');
  await press(page.getByRole('button', { name: 'Choose Enterprise' }));
  await heading('Change to Enterprise');
  await page.getByText('This price holds until').waitFor();
  await look('preview');
  const pay = page.getByRole('button', { name: /^Pay \$/ });
  const price = (await pay.textContent()).match(/\$([\d,.]+)/)[1];
  found.due[name] = Number(price.replaceAll(/[,.]/g, ''));
  await press(page.getByText('Promotion code', { exact: true }));
  await page.getByLabel('Code', { exact: true }).fill('NOSUCHCODE');
  await press(page.getByRole('button', { name: 'See the price with it' }));
  await page.getByRole('alert').waitFor();
  await look('refused-code');
  await heading('Change to Enterprise');
  await press(page.getByRole('button', { name: /^Pay \$/ }));
  await page.getByRole('heading', { name: 'Your plan is changed' }).waitFor();
  await look('changed');

  // Finds an old invoice.
  await press(section('Invoices'));
  await heading('Invoices');
  await look('invoices');
  await press(page.getByRole('row').last().getByRole('link').first());
  await heading(/^Invoice /);
  await page.getByText('Subtotal').waitFor();
  await look('invoice');
  await press(section('Activity'));
  await heading('Activity');
  await look('activity');

  // Cancels, and takes it back.
  await press(section('Overview'));
  await press(page.getByRole('link', { name: 'Cancel the subscription' }));
  await heading('Cancel your subscription');
  await page.getByLabel('In your own words').fill('We close our project.');
  await page.getByLabel('Why do you leave?').selectOption('unused');
  await look('cancel');
  await press(page.getByRole('button', { name: 'Cancel the subscription' }));
  await page.getByRole('heading', { name: 'Your subscription is canceled' }).waitFor();
  await look('canceled');
  await press(page.getByRole('link', { name: 'Keep it' }));
  await heading('Keep your subscription?');
  await look('keep');
  await press(page.getByRole('button', { name: 'Keep it' }));
  await page.getByRole('heading', { name: 'Your subscription goes on' }).waitFor();

  await page.goto(`${asked.base}/portal/nothing`);
  await heading('There is no such page');
  await look('not-found');
  await page.goto(`${asked.base}/portal`);
  await press(page.getByRole('button', { name: 'Sign out' }));
  await heading('Sign in');
  await look('sign-in');
  await page.goto(asked.links[name]);
  await heading('This link was used already');
  await look('used');
  await context.close();
}

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
main(asked).then(
  (found) => process.stdout.write(JSON.stringify(found)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
