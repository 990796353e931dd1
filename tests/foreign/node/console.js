// Walks through the console in Chromium, as an operator would, and has axe look at each page.
// Reads {base, email, password, organization, event, shots?} and prints what it found.
'use strict';

const fs = require('node:fs');
const { answer, inEachPass } = require('./browser');

async function pass(page, { name, scripts, look, heading }, asked) {
  await page.goto(`${asked.base}/`);
  await heading('Sign in');
  await look('sign-in');
  await page.getByLabel('E-mail address').fill(asked.email);
  await page.getByLabel('Password').fill('a wrong one');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').waitFor();
  await look('refused');
  await page.getByLabel('Password').fill(asked.password);
  await page.keyboard.press('Enter');
  await heading('Home');
  await look('home');

  await page.getByRole('link', { name: 'Dead letters' }).first().click();
  await heading('Dead letters');
  await look('dead-letters');
  const letter = page.getByRole('link', { name: asked.event[name] });
  await letter.click();
  await heading(asked.event[name]);
  await look('dead-letter');
  await page.getByRole('button', { name: /^Try it/ }).click();
  await page.getByRole('heading', { name: 'A replay would succeed: applied' }).waitFor();
  await look('tried');
  await page.getByRole('link', { name: 'The event' }).click();
  await heading(asked.event[name]);
  await page.getByRole('button', { name: 'Replay', exact: true }).click();
  await page.getByRole('heading', { name: 'Replay this event?' }).waitFor();
  await look('asked');
  await page.getByRole('button', { name: 'Replay it' }).click();
  await page.getByRole('heading', { name: 'Replayed: applied' }).waitFor();
  await look('replayed');

  await page.getByRole('link', { name: 'Organizations' }).click();
  await heading('Organizations');
  await page.getByLabel(/^Name, external id/).fill(asked.organization);
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: asked.organization }).waitFor();
  await look('organizations');
  await page.getByRole('link', { name: asked.organization }).click();
  await heading(asked.organization);
  await look('organization');
  await page.getByRole('link', { name: 'its timeline' }).click();
  await heading('Timeline');
  await look('timeline');
  await page.getByRole('link', { name: 'The organization' }).click();
  await heading(asked.organization);
  await page.locator('a[href$="/quotas/api_calls"]').first().click();
  await heading('Quota api_calls');
  await look('override');
  await page.getByRole('link', { name: 'The organization' }).click();
  await heading(asked.organization);
  await page.getByRole('link', { name: 'api_calls' }).first().click();
  await heading('Explain');
  await look('explain');
  await page.getByRole('link', { name: 'Webhooks in' }).click();
  await heading('Webhooks in');
  await look('webhooks');
  await page.getByLabel('Status').selectOption('processed');
  await page.getByRole('button', { name: 'Find' }).click();
  await page.getByRole('button', { name: 'Replay all that match' }).click();
  await page.getByRole('heading', { name: /^Replay \d+ processed events\?$/ }).waitFor();
  await look('bulk-asked');
  await page.getByRole('button', { name: 'Replay them' }).click();
  await heading('Replay of processed events');
  await look('bulk');
  const done = page.getByRole('heading', { name: 'Done', exact: true });
  if (scripts) {
    // It comes by itself.
    await done.waitFor({ timeout: 30000 });
  } else {
    for (let n = 0; n < 60 && !(await done.isVisible()); n += 1) {
      await new Promise((resolve) => { setTimeout(resolve, 500); });
      await page.reload();
    }
    await done.waitFor({ timeout: 1000 });
  }
  await look('bulk-done');
  await page.getByRole('link', { name: 'Events out' }).click();
  await heading('Events out');
  await page.getByLabel('Address').fill(`https://app.example.com/${encodeURIComponent(name)}`);
  await page.getByRole('button', { name: 'Create it' }).click();
  await heading('Endpoint created');
  await page.getByText('whsec_').waitFor();
  await look('secret');
  await page.getByRole('link', { name: /^← https/ }).click();
  await page.getByRole('button', { name: 'Disable' }).click();
  await page.getByRole('heading', { name: 'Disable this endpoint?' }).waitFor();
  await look('endpoint');
  await page.getByRole('link', { name: 'Events out', exact: true }).first().click();
  await heading('Events out');
  await look('events-out');
  await page.getByRole('link', { name: 'of all endpoints' }).click();
  await heading('Deliveries');
  await look('deliveries');
  await page.getByRole('link', { name: 'Plans' }).click();
  await heading('Plans');
  await page.getByLabel('If the plan').fill('standard');
  await page.getByLabel('cost').fill('109.00');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Who would notice', exact: true }).waitFor();
  await look('plans');
  await page.getByRole('link', { name: 'Figures' }).click();
  await heading('Figures');
  await look('figures');
  await page.getByRole('link', { name: 'all of them' }).click();
  await heading('Movements of recurring revenue');
  await look('movements');
  await page.goBack();
  await page.getByRole('link', { name: 'by plan' }).click();
  await heading('Who pays, and who is free');
  await look('customers');
  await page.getByRole('link', { name: 'Audit log', exact: true }).click();
  await heading('Audit log');
  await look('audit-log');
  await page.getByRole('button', { name: /^Verify/ }).click();
  await heading('Verification');
  await look('verification');
  await page.goto(`${asked.base}/console/nothing`);
  await heading('Not Found');
  await look('not-found');
  await page.goto(`${asked.base}/console`);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await heading('Sign in');
}

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const found = { pages: 0, faults: [] };
answer(inEachPass(asked, found, /status of 40/, (page, walk) => pass(page, walk, asked)));
