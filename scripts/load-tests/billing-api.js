// The API under load, for k6:
//   k6 run -e BASE_URL=http://127.0.0.1:8080 -e BILLING_API_KEY=vck_… scripts/load-tests/billing-api.js
// `make load` runs the same scenario with a tool that needs no k6.
import http from "k6/http";
import { check } from "k6";

const base = __ENV.BASE_URL || "http://127.0.0.1:8080";
const params = {
  headers: {
    Authorization: `Bearer ${__ENV.BILLING_API_KEY}`,
    "Content-Type": "application/json",
  },
};

export const options = {
  stages: [
    { duration: "10s", target: 20 },
    { duration: "30s", target: 50 },
    { duration: "10s", target: 0 },
  ],
  thresholds: {
    http_req_failed: ["rate<0.01"],
    http_req_duration: ["p(95)<500"],
  },
};

export default function () {
  const consumed = http.post(
    `${base}/api/billing/usage/check`,
    JSON.stringify({ metric: "api_calls", quantity: 1, consume: true }),
    { ...params, responseCallback: http.expectedStatuses(200, 402) },
  );
  check(consumed, { "decided": (r) => r.status === 200 || r.status === 402 });
  const usage = http.get(`${base}/api/billing/usage`, params);
  check(usage, { "usage shown": (r) => r.status === 200 });
  const plans = http.get(`${base}/api/billing/plans`, params);
  check(plans, { "plans listed": (r) => r.status === 200 });
}
