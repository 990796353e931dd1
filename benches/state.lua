-- Reads the state, again and again. BENCH_TOKEN is the caller's.

wrk.method = "GET"
wrk.path = "/api/billing/state"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d duration_us=%d mean_us=%d errors=%d\n",
    summary.requests, summary.duration, latency.mean,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
