// Prints how many digits the package writes after the point, for each of {package, currencies}.
'use strict';

const fs = require('node:fs');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));

import(`${asked.package}/dist/react/money.js`).then(({ decimals }) => {
  process.stdout.write(JSON.stringify(Object.fromEntries(asked.currencies.map((one) => [one, decimals(one)]))));
});
