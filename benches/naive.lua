-- Consumes one call of a counter, again and again, at the naive endpoint.

local counters = tonumber(os.getenv("BENCH_COUNTERS"))
math.randomseed(7)

function request()
  return wrk.format("POST", "/consume/" .. math.random(counters))
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d duration_us=%d errors=%d\n",
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
