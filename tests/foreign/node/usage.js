// The libraries of CloudEvents and Standard Webhooks for Node, as a test calls
// them. Reads one JSON document on stdin: {"action": "encode", "event",
// "binaryData"?} prints {"contentType", "body"} of the event in structured mode;
// {"action": "receive", "secret", "headers", "body"} verifies a webhook, and
// prints the event that it carries.
const { CloudEvent, HTTP } = require("cloudevents");
const { Webhook } = require("standardwebhooks");

const request = JSON.parse(require("fs").readFileSync(0, "utf8"));

if (request.action === "encode") {
  const { data, ...attributes } = request.event;
  const event = new CloudEvent({
    ...attributes,
    data: request.binaryData ? Buffer.from(JSON.stringify(data)) : data,
  });
  const { headers, body } = HTTP.structured(event);
  console.log(JSON.stringify({ contentType: headers["content-type"], body }));
} else {
  new Webhook(request.secret).verify(request.body, request.headers);
  console.log(JSON.stringify(HTTP.toEvent(request)));
}
