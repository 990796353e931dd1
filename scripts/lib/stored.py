"""The part `stored` of scripts/bench: what operators, tenants and Prometheus ask every day, of a database with
millions of events. Each is asked several times; none may take longer than LIMIT_MS, and none may read a large table
from end to end, which is counted by PostgreSQL itself (pg_stat_user_tables.seq_tup_read)."""

import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request

from browser import Browser

LIMIT_MS = 100
ROUNDS = 7
PASSWORD = "correct horse battery staple"
# Reading as many rows from end to end is a plan that grows with the table.
MANY_ROWS = 40_000
# The figures of doctor and the jobs include what they are for.
COMMANDS = [
    "webhooks list", "webhooks list --unprocessed", "webhooks list --type charge.dispute.created",
    "webhooks list --organization {organization}", "webhooks show {event}", "webhooks dead-letters --type invoice.paid",
    "webhooks dead-letters --organization {organization}", "webhooks retry", "organizations list",
    "organizations show --organization {organization}", "quotas list --organization {organization}",
    "grace-periods list --active", "grace-periods cleanup --older-than-days 30",
    "audit list --organization {organization}", "audit list", "users list --organization {organization}",
    "api-keys list --organization {organization}", "usage alerts", "plans list", "migrate status", "retention run",
    "status", "figures show", "figures months", "figures standings", "explain --organization {organization}",
    "explain --organization {organization} --metric api_calls",
]
# What is listed or counted whole is read whole.
LISTS_ALL = {"organizations list", "figures standings", "GET /api/operator/figures/standings"}
# The pages of the console that are read, and their filters.
CONSOLE = [
    "", "/webhooks", "/webhooks?status=processed", "/webhooks?type=charge.dispute.created", "/webhooks?org={organization}",
    "/webhooks/{event}", "/dead-letters", "/dead-letters?type=invoice.paid", "/dead-letters?org={organization}",
    "/bulk-actions", "/organizations", "/organizations?query=ext_7", "/organizations/{organization}",
    "/organizations/{organization}/timeline", "/organizations/{organization}/timeline?kind=stripe_event",
    "/organizations/{organization}/timeline?kind=dead_letter", "/organizations/{organization}/quotas/api_calls",
    "/organizations/{organization}/features/sso", "/explain?org={organization}",
    "/explain?org={organization}&metric=api_calls", "/explain?invoice=in_7_2", "/explain?request=req_7", "/events-out",
    "/events-out/deliveries", "/plans", "/figures", "/figures/movements", "/figures/movements?kind=churn",
    "/figures/customers?standing=paying", "/figures/customers?standing=past_due",
    "/figures/customers?standing=trialing", "/figures/customers?standing=free", "/audit-log",
    "/audit-log?org={organization}", "/operators", "/account",
]
# The customers' pages.
PORTAL = ["", "/plans", "/invoices", "/invoices/in_7_2", "/payment-methods", "/activity"]


def seed(postgres, root, events, organizations):
    """Fills the database; returns seconds and bytes."""
    # The log of it would be larger than the data.
    postgres.psql("ALTER SYSTEM SET max_wal_size = '1GB'")
    postgres.psql("SELECT pg_reload_conf()")
    started = time.monotonic()
    subprocess.run(
        [f"{postgres.bin}/psql", "-X", "-q", "-d", "bench", "-v", f"events={events}", "-v",
         f"organizations={organizations}", "-f", root / "benches/stored.sql"],
        env=postgres.env, check=True, stdout=subprocess.DEVNULL)
    postgres.psql("ALTER SYSTEM RESET max_wal_size")
    postgres.psql("SELECT pg_reload_conf()")
    postgres.psql("VACUUM ANALYZE")
    postgres.psql("CHECKPOINT")
    return time.monotonic() - started, int(postgres.psql("SELECT pg_database_size('bench')"))


class Scans:
    """Which tables were read from end to end since the last look."""

    QUERY = "SELECT relname, seq_tup_read FROM pg_stat_user_tables"

    def __init__(self, postgres):
        self.postgres = postgres
        self.before = self.read()

    def read(self):
        # The sessions tell of their reads when they are idle, after a while.
        self.postgres.psql("SELECT pg_sleep(1.1), pg_stat_clear_snapshot()")
        rows = (line.split("|") for line in self.postgres.psql(self.QUERY).splitlines())
        return {name: int(read) for name, read in rows}

    def new(self, rounds):
        now = self.read()
        grown = {name: (read - self.before.get(name, 0)) // rounds for name, read in now.items()}
        self.before = now
        return {name: rows for name, rows in grown.items() if rows >= MANY_ROWS}


def timed(work, before):
    times = []
    for _ in range(ROUNDS):
        before()
        started = time.monotonic()
        work()
        times.append(1000 * (time.monotonic() - started))
    return times


class Figures:
    def __init__(self, postgres):
        self.scans = Scans(postgres)
        self.slow = []

    def measure(self, name, work, before=lambda: None):
        work()
        times = timed(work, before)
        scans = self.scans.new(ROUNDS + 1)
        middle, most = statistics.median(times), max(times)
        notes = [f"reads {rows:,} rows of {table}" for table, rows in sorted(scans.items())]
        if middle > LIMIT_MS:
            notes.insert(0, "SLOW")
        if notes and name not in LISTS_ALL:
            self.slow.append(name)
        print(f"  {middle:7.1f} {most:7.1f}  {name}  {', '.join(notes)}", flush=True)


def ask(base, path, token):
    request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def token(base, email):
    body = json.dumps({"email": email, "password": PASSWORD}).encode()
    request = urllib.request.Request(f"{base}/api/auth/login", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["token"]


def routes(base):
    """Every route of the description that is read, with its filters, each alone."""
    document = json.loads(ask(base, "/openapi.json", None)[1])
    for path, methods in sorted(document["paths"].items()):
        if "get" not in methods or path in ("/docs", "/openapi.json"):
            continue
        yield path, None
        for parameter in methods["get"].get("parameters", []):
            if parameter["in"] == "query":
                yield path, parameter["name"]


def measure(postgres, program, service, base, events, organizations):
    """Prints the 50th percentile and the maximum of each, in ms; returns those that are slow or read a table whole."""
    organization = postgres.psql("SELECT md5('org7')::uuid")
    values = {"organization": organization, "event": f"evt_{events - 5}"}
    env = postgres.program_env("billing_service", MIGRATION_DATABASE_URL=postgres.url("postgres"))
    for email, role, of in (("bench-op@example.com", "operator", []),
                            ("bench-owner@example.com", "owner", ["--organization", organization])):
        subprocess.run([program, "users", "create", *of, "--email", email, "--role", role, "--password-stdin"],
                       input=PASSWORD, text=True, env=env, check=True, capture_output=True)
    figures = Figures(postgres)
    print("  p50 ms  max ms", flush=True)

    def run(arguments):
        ran = subprocess.run([program, *arguments], env=env, capture_output=True, text=True)
        assert ran.returncode == 0, f"{arguments}: {ran.stderr[-300:]}"

    for command in COMMANDS:
        arguments = [word.format(**values) for word in command.split()]
        figures.measure(command, lambda: run(arguments))
    with service:
        operator, owner = token(base, "bench-op@example.com"), token(base, "bench-owner@example.com")
        path_values = {"metric": "api_calls"}
        query_values = {
            "organizationId": organization, "organization": organization, "type": "charge.dispute.created",
            "state": "processed", "processed": "true", "status": "paid", "action": "invoice_paid", "actor": "webhook",
            "resourceType": "invoice", "from": "2020-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z", "limit": "100",
            "query": "Organization 7", "active": "true", "metric": "api_calls", "q": "Organization 7",
        }
        ids = {"/api/operator/webhook-events/{id}": values["event"], "/api/operator/dead-letters/{id}": "evt_dead_7",
               "/api/billing/invoices/{id}": "in_7_2"}
        skipped = []
        for path, parameter in routes(base):
            filled = path.replace("{id}", ids.get(path, organization))
            for name, value in path_values.items():
                filled = filled.replace("{" + name + "}", value)
            if parameter and parameter not in query_values:
                continue
            if parameter:
                filled += f"?{parameter}={urllib.request.quote(query_values[parameter])}"
            credential = operator if path.startswith("/api/operator") else owner
            status, body = ask(base, filled, credential)
            if status != 200:
                skipped.append(f"{filled}: {status} {body[:80].decode(errors='replace')}")
                continue
            figures.measure("GET " + filled.replace(organization, "ORG"), lambda: ask(base, filled, credential))
        for at, sign_in, pages in (("bench-op@example.com", "/console", CONSOLE),
                                   ("bench-owner@example.com", "/portal", PORTAL)):
            browser = Browser(base)
            browser.sign_in(f"{sign_in}/sign-in", at, PASSWORD)
            for page in pages:
                filled = sign_in + page.format(**values)
                status, body = browser.get(filled)
                if status != 200:
                    skipped.append(f"{filled}: {status} {body[:80]}")
                    continue
                figures.measure(filled.replace(organization, "ORG"), lambda: browser.get(filled))
        # From the fifth within a second on, scrapes share an answer.
        figures.measure("GET /metrics, anew", lambda: ask(base, "/metrics", None), lambda: time.sleep(1.05))
        for line in skipped:
            print(f"  not measured: {line}", flush=True)
    return figures.slow
