"""Stripe's library for Python, as a test calls it.

Reads one JSON document on stdin: {"action": "sign" | "verify", "secret",
"body", "timestamp"?, "header"?}; prints the header, or the id of the event
that it verified.
"""

import json
import sys

import stripe

request = json.load(sys.stdin)
secret, body = request["secret"], request["body"]
if request["action"] == "sign":
    print(
        stripe.WebhookSignature.generate_signature_header(
            body, secret, request.get("timestamp")
        )
    )
else:
    event = stripe.Webhook.construct_event(
        body, request["header"], secret, api_key="sk_test_unused"
    )
    print(event["id"])
