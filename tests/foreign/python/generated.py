"""Uses the client that openapi-python-client has generated: `generated.py BASE KEY`. Prints what it saw."""

import json
import sys

from billing_client import AuthenticatedClient
from billing_client.api.state import get_state
from billing_client.api.usage import check_usage, get_usage, record_usage
from billing_client.models import BatchResult, CheckBody, OrganizationState, UsageBatch, UsageEvent

base, key = sys.argv[1:]
client = AuthenticatedClient(base_url=base, token=key)
seen = {}

state = get_state.sync(client=client)
assert isinstance(state, OrganizationState), state
seen["plan"] = state.plan.tier

events = [UsageEvent(id=f"e{n}", metric="api_calls", quantity=quantity) for n, quantity in enumerate([1, 2.5])]
result = record_usage.sync(client=client, body=UsageBatch(events=events))
assert isinstance(result, BatchResult), result
seen["recorded"] = result.recorded
seen["usage"] = get_usage.sync("api_calls", client=client).usage

refused = check_usage.sync_detailed(client=client, body=CheckBody(metric="storage_gb", quantity=2))
assert refused.status_code == 402, refused
seen["refused"] = json.loads(refused.content)["code"]

stranger = AuthenticatedClient(base_url=base, token="vck_nobody")
seen["unauthenticated"] = get_state.sync_detailed(client=stranger).status_code.value
print(json.dumps(seen))
