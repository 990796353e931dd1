// A customer's life with an example product, in Chromium: from sign-up to the end of the plan,
// on the product's pages and on those of Stripe's stand-in. Nothing here knows which language
// the product is in. Reads {product, billing, key, stripe, stripeKey, customer, clock, renewal,
// reconcile} and prints what the customer saw on the way.
'use strict';

const fs = require('node:fs');
const { execFileSync } = require('node:child_process');
const { launch } = require('./browser');

const ASKS_ITS_HOLDER = '4000002760003184';
const GOOD = '4242424242424242';

async function main(asked) {
  const browser = await launch();
  try {
    const context = await browser.newContext();
    context.setDefaultTimeout(30_000);
    return await live(context, asked);
  } finally {
    await browser.close();
  }
}

/** Posts to Stripe's stand-in. */
async function stripe(asked, path, fields) {
  const answer = await fetch(`${asked.stripe}${path}`, {
    method: fields ? 'POST' : 'GET',
    headers: { authorization: `Bearer ${asked.stripeKey}` },
    body: fields && new URLSearchParams(fields),
  });
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return answer.json();
}

/** The customer that Stripe has on a test clock becomes that of the organization. */
async function putOnClock(asked, organization) {
  const answer = await fetch(`${asked.billing}/api/organizations/${organization}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${asked.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'Acme', stripeCustomerId: asked.customer }),
  });
  if (!answer.ok) throw new Error(await answer.text());
}

/** The daily job, which finds what no webhook told. */
function reconcile({ reconcile: { program, args, env } }) {
  execFileSync(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
}

async function live(context, asked) {
  const seen = {};
  const page = await context.newPage();
  const button = (name) => page.getByRole('button', { name, exact: true });
  // `expected`: the product may hear of what the daily job has found a moment later.
  const account = async (shot, expected = {}) => {
    const ends = Date.now() + 30_000;
    const differs = async ([id, text]) => (await page.locator(`#${id}`).innerText()) !== text;
    do {
      await page.goto(`${asked.product}/account`);
      const checks = await Promise.all(Object.entries(expected).map(differs));
      if (!checks.includes(true)) break;
    } while (Date.now() < ends);
    seen[shot] = {};
    for (const id of ['plan', 'seats', 'payment', 'ends', 'pending', 'teammates']) {
      const found = page.locator(`#${id}`);
      if (await found.count()) seen[shot][id] = await found.innerText();
    }
    const alerts = await page.getByRole('alert').allInnerTexts();
    if (alerts.length) seen[shot].alerts = alerts;
  };
  const refused = async (click) => {
    await click();
    return page.getByRole('alert').first().innerText();
  };
  const summarize = async () => {
    await page.getByLabel('Text').fill('Rain fell all night. In the morning it stopped.');
    await button('Summarize').click();
  };

  // They sign up, and use what is free.
  await page.goto(asked.product);
  await page.getByLabel('Company').fill('Acme');
  await page.getByLabel('E-mail').fill('billing@acme.example');
  await button('Sign up').click();
  await page.getByRole('heading', { level: 1, name: 'Acme' }).waitFor();
  const cookies = await context.cookies();
  await putOnClock(asked, cookies.find((one) => one.name === 'customer').value);
  await account('signed up');
  for (let n = 0; n < 3; n += 1) {
    await summarize();
    seen.summary = await page.locator('#summary').innerText();
  }
  seen['a fourth summary'] = await refused(summarize);

  // They subscribe with a card whose bank asks its holder.
  await page.goto(`${asked.product}/account`);
  await page.getByLabel('Plan').selectOption('Team');
  await page.getByLabel('Seats').fill('2');
  await button('Subscribe').click();
  await page.getByLabel('Card number').fill(ASKS_ITS_HOLDER);
  await button('Subscribe').click();
  await page.getByText('Your bank asks you to confirm').waitFor();
  await button('Confirm').click();
  await page.waitForURL(`${asked.product}/account`);
  // What the page shows as they return, read before anything else is asked.
  seen.returned = await page.locator('#plan').innerText();
  await account('subscribed');
  await summarize();
  await page.locator('#summary').waitFor();
  await button('Add a teammate').click();
  seen['a third seat'] = await refused(() => button('Add a teammate').click());

  // They upgrade, with seats, for the price that they are shown.
  await page.goto(`${asked.product}/account`);
  await page.getByLabel('Plan').selectOption('Business');
  await page.getByLabel('Seats').fill('3');
  await button('See the price').click();
  seen.due = await page.locator('#due').innerText();
  await button('Change my plan').click();
  const [bank] = await Promise.all([
    context.waitForEvent('page'),
    page.getByRole('link', { name: 'Go to your bank' }).click(),
  ]);
  await account('asked by the bank');
  await page.goBack();
  await bank.getByRole('button', { name: 'Confirm', exact: true }).click();
  await bank.getByText('This invoice is paid.').waitFor();
  await bank.close();
  const [invoice] = (await stripe(asked, `/v1/invoices?customer=${asked.customer}&limit=1`)).data;
  seen.charged = invoice.amount_paid;
  await button('I have confirmed').click();
  await page.waitForURL(`${asked.product}/account`);
  await account('upgraded');
  await button('Add a teammate').click();

  // Their bank refuses the renewal, since nobody is there to be asked.
  await stripe(asked, `/v1/test_helpers/test_clocks/${asked.clock}/advance`, { frozen_time: asked.renewal });
  reconcile(asked);
  await account('renewal failed', { payment: 'past_due' });

  // In Stripe's portal they find the open invoice, which the product links to as well. They pay
  // with another card, and have it charged from now on.
  seen.link = await page.getByRole('link', { name: 'Pay the open invoice' }).getAttribute('href');
  await button('All invoices').click();
  await page.getByRole('heading', { name: 'Invoice history' }).waitFor();
  await page.getByRole('listitem').filter({ hasText: 'open' }).getByRole('link').click();
  seen.opened = page.url();
  await page.getByLabel('Card number').fill(GOOD);
  await button('Pay').click();
  await page.getByText('This invoice is paid.').waitFor();
  reconcile(asked);
  await account('paid', { payment: 'paid' });
  await button('Charge 4242').click();
  await page.getByText('4242 (charged)').waitFor();
  await account('paid again');

  // And they cancel.
  await button('Cancel').click();
  await page.locator('#ends').waitFor();
  await account('canceled');
  return seen;
}

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
main(asked).then(
  (seen) => process.stdout.write(JSON.stringify(seen)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
