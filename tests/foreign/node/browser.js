// Chromium, and what every walk beside this looks for on a page.
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

function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ],
  });
}

// What is wrong with a page as it stands: wider than its window, or a finding of axe.
async function faultsOf(page) {
  const faults = [];
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  if (wide) faults.push('it is wider than the window');
  await page.evaluate(AXE);
  const run = (tags) => axe.run(document, { runOnly: { type: 'tag', values: tags } });
  const { violations } = await page.evaluate(run, TAGS);
  for (const one of violations) {
    const where = one.nodes.map((node) => node.html).slice(0, 3).join(' ');
    faults.push(`${one.id}: ${one.help}: ${where}`);
  }
  return faults;
}

// Goes the same way in each pass. `asked` is {base, shots?}: the only host that pages may ask,
// and a folder for pictures of them; `expected` says which messages of the browser are no faults.
async function inEachPass(asked, found, expected, pass) {
  const browser = await launch();
  try {
    for (const [name, options] of Object.entries(PASSES)) {
      const context = await browser.newContext(options);
      context.setDefaultTimeout(30000);
      const page = await context.newPage();
      await pass(page, walker(page, { name, asked, found, expected, ...options }));
      await context.close();
    }
    return found;
  } finally {
    await browser.close();
  }
}

function walker(page, { name, asked, found, expected, javaScriptEnabled }) {
  const scripts = javaScriptEnabled !== false;
  page.on('console', (message) => {
    if (message.type() === 'error' && !expected.test(message.text())) {
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
    for (const fault of await faultsOf(page)) found.faults.push(`${name}: ${shot}: ${fault}`);
  };
  const heading = (text) => page.getByRole('heading', { level: 1, name: text }).waitFor();
  return { name, scripts, found, look, heading };
}

// Prints what comes of a request, or how it failed.
function answer(made) {
  made.then(
    (found) => process.stdout.write(JSON.stringify(found)),
    (error) => {
      console.error(error);
      process.exitCode = 1;
    },
  );
}

module.exports = { answer, faultsOf, inEachPass, launch };
