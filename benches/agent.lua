-- Executes an agent, again and again, with the first key of BENCH_KEYS.

wrk.method = "POST"
wrk.path = "/api/agents/execute"
wrk.body = '{"agentId":"bench","input":"bench"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. io.lines(os.getenv("BENCH_KEYS"))()

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d duration_us=%d p50_us=%d p99_us=%d errors=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
