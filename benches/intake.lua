-- wrk posts the requests of BENCH_REQUESTS in order: a file of ready HTTP
-- requests, all BENCH_REQUEST_BYTES long, each with an event of its own.
local file = assert(io.open(os.getenv("BENCH_REQUESTS"), "rb"))
local length = tonumber(os.getenv("BENCH_REQUEST_BYTES"))
local requests = file:read("*a")
local count = #requests / length
local sent = 0

function request()
  -- Past the end they repeat; the rate is counted in stored rows, not in answers.
  local at = (sent % count) * length
  sent = sent + 1
  return requests:sub(at + 1, at + length)
end

function done(summary, latency)
  io.write(string.format(
    "RESULT requests=%d errors=%d duration_us=%d mean_us=%d p99_us=%d\n",
    summary.requests, summary.errors.status + summary.errors.connect + summary.errors.timeout
      + summary.errors.read + summary.errors.write,
    summary.duration, math.floor(latency.mean), latency:percentile(99)))
end
