// Stripe's library for Node, as a test calls it. Reads one JSON document on
// stdin: {"action": "sign" | "verify", "secret", "body", "timestamp"?,
// "header"?}; prints the header, or the id of the event that it verified.
const Stripe = require("stripe");

const { webhooks } = new Stripe("sk_test_unused");
const { action, secret, body, timestamp, header } = JSON.parse(
  require("fs").readFileSync(0, "utf8"),
);

if (action === "sign") {
  console.log(
    webhooks.generateTestHeaderString({ payload: body, secret, timestamp }),
  );
} else {
  console.log(webhooks.constructEvent(body, header, secret).id);
}
