// Verifies {messages: [{headers, body}]} with {package, secrets}: prints what each is, or why it is none.
'use strict';

const fs = require('node:fs');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));

import(`${asked.package}/dist/index.js`).then(async ({ verifyWebhook }) => {
  const verify = ({ headers, body }) => verifyWebhook(Buffer.from(body), headers, asked.secrets).then(
    ({ type, data }) => [type, data.features.projects, data.organization.name],
    (error) => error.code ?? String(error),
  );
  process.stdout.write(JSON.stringify(await Promise.all(asked.messages.map(verify))));
});
