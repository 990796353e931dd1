// Walks through the customer pages in Chromium, as a customer would, and has axe look at each
// page. Reads {base, stripe, links, shots?} and prints what it found.
'use strict';

const fs = require('node:fs');
const { answer, inEachPass } = require('./browser');

const LIMIT = 30000;

async function pass(page, { name, found, look, heading }, asked) {
  const keyboard = name === 'plain';
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
  const [payment] = await Promise.all([page.context().waitForEvent('page'), press(away)]);
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
}

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const found = { pages: 0, faults: [], due: {} };
answer(inEachPass(asked, found, /status of 4/, (page, walk) => pass(page, walk, asked)));
