"""The libraries of CloudEvents and Standard Webhooks for Python, as a test
calls them.

Reads one JSON document on stdin: {"action": "encode", "event", "binaryData"?,
"binaryMode"?} prints {"contentType", "headers", "body"} of the event, in structured mode or in
binary mode; {"action":
"receive", "secret", "headers", "body"} verifies a webhook, and prints the event
that it carries.
"""

import json
import sys
from datetime import datetime

from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

request = json.load(sys.stdin)
if request["action"] == "encode":
    attributes = dict(request["event"])
    data = attributes.pop("data")
    if "time" in attributes:
        attributes["time"] = datetime.fromisoformat(attributes["time"])
    if request.get("binaryData"):
        data = json.dumps(data).encode()
    encode = to_binary_event if request.get("binaryMode") else to_structured_event
    message = encode(CloudEvent(attributes, data))
    headers = {name.lower(): value for name, value in message.headers.items()}
    body = message.body.decode()
    kind = headers.get("content-type")
    print(json.dumps({"contentType": kind, "headers": headers, "body": body}))
else:
    Webhook(request["secret"]).verify(request["body"], request["headers"])
    event = from_http_event(
        HTTPMessage(headers=request["headers"], body=request["body"].encode())
    )
    attributes = event.get_attributes() | {"data": event.get_data()}
    print(json.dumps(attributes, default=str))
