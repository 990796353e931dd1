// The libraries of CloudEvents and Standard Webhooks for Node, as a test calls
// them. Reads one JSON document on stdin: {"action": "encode", "event",
// "binaryData"?, "binaryMode"?} prints {"contentType", "headers", "body"} of the event, in
// structured mode or in binary mode;
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
  const { headers, body } = request.binaryMode ? HTTP.binary(event) : HTTP.structured(event);
  const sent = Buffer.isBuffer(body) ? body.toString() : body;
  console.log(JSON.stringify({ contentType: headers["content-type"], headers, body: sent }));
} else {
  new Webhook(request.secret).verify(request.body, request.headers);
  console.log(JSON.stringify(HTTP.toEvent(request)));
}
