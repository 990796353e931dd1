-- Consumes one call, again and again, with the keys of BENCH_KEYS in turn.

local heads = {}
for key in io.lines(os.getenv("BENCH_KEYS")) do
  heads[#heads + 1] = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
end
math.randomseed(7)

function request()
  local head = heads[math.random(#heads)]
  return wrk.format("POST", "/api/billing/usage/check", head,
    '{"metric":"api_calls","quantity":1,"consume":true}')
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d duration_us=%d errors=%d\n",
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
