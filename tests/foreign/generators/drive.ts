// Calls the service through what each generator made of its description, and
// prints what came of it: node drive.js BASE KEY
import { checkUsage, listPlans, recordUsage } from "./hey";
import { client } from "./hey/client.gen";
import { Configuration, PlansApi, ResponseError, UsageApi } from "./fetch";
import type { QuotaExceeded } from "./fetch";
import type { operations } from "./types";

declare const process: { argv: string[] };
const [base, key] = process.argv.slice(2) as [string, string];

const tooMuch = { metric: "storage_gb", quantity: 1_000 };
const event = (id: string) => ({ id, metric: "api_calls", quantity: 2 });

async function byHeyApi() {
  client.setConfig({ baseUrl: base, auth: key });
  const plans = await listPlans({ throwOnError: true, query: { limit: 2 } });
  const recorded = await recordUsage({
    throwOnError: true,
    body: { events: [event("hey-1"), event("hey-2")] },
  });
  const denied = await checkUsage({ body: tooMuch });
  return {
    tiers: plans.data.data.map((plan) => plan.tier),
    recorded: "results" in recorded.data ? recorded.data.recorded : -1,
    denied: denied.error?.code,
  };
}

async function byOpenapiGenerator() {
  const configuration = new Configuration({ basePath: base, accessToken: key });
  const usage = new UsageApi(configuration);
  const plans = await new PlansApi(configuration).listPlans({ limit: 2 });
  const recorded = await usage.recordUsage({
    usageBody: { events: [event("fetch-1"), event("fetch-2")] },
  });
  const denied = await usage.checkUsage({ checkBody: tooMuch }).catch(async (error: unknown) => {
    if (!(error instanceof ResponseError)) throw error;
    return (await error.response.json()) as QuotaExceeded;
  });
  return {
    tiers: plans.data.map((plan) => plan.tier),
    recorded: "results" in recorded ? recorded.recorded : -1,
    denied: denied.code,
  };
}

// openapi-typescript makes types, and the calls are made by hand.
async function byOpenapiTypescript() {
  async function call<Answer>(method: string, path: string, type: string, body?: unknown) {
    const headers = { authorization: `Bearer ${key}`, "content-type": type };
    const response = await fetch(base + path, { method, headers, body: JSON.stringify(body) });
    return (await response.json()) as Answer;
  }
  type Record = operations["recordUsage"];
  type Plans = operations["listPlans"]["responses"][200]["content"]["application/json"];
  type Recorded = Record["responses"][200]["content"]["application/json"];
  type Denied =
    operations["checkUsage"]["responses"][402]["content"]["application/problem+json"];
  const batch: Record["requestBody"]["content"]["application/cloudevents-batch+json"] = ["1", "2"].map(
    (id) => ({ specversion: "1.0", id, source: "/drive", type: "api_calls", data: { quantity: 2 } }),
  );
  const plans = await call<Plans>("GET", "/api/billing/plans?limit=2", "application/json");
  const kind = "application/cloudevents-batch+json";
  const recorded = await call<Recorded>("POST", "/api/billing/usage/events", kind, batch);
  const check = "/api/billing/usage/check";
  const denied = await call<Denied>("POST", check, "application/json", tooMuch);
  return {
    tiers: plans.data.map((plan) => plan.tier),
    recorded: "results" in recorded ? recorded.recorded : -1,
    denied: denied.code,
  };
}

Promise.all([byHeyApi(), byOpenapiGenerator(), byOpenapiTypescript()]).then((seen) =>
  console.log(JSON.stringify(seen)),
);
