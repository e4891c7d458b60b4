-- For wrk: each request POSTs feedback on another request id.
local seed, count = os.getenv("SEED") or "0", 0

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
for line in string.gmatch(os.getenv("HEADERS") or "", "[^\n]+") do
  local name, value = string.match(line, "^([^:]+): (.*)$")
  wrk.headers[name] = value
end

function request()
  count = count + 1
  return wrk.format(nil, nil, nil, string.format('{"request_id": "%s-%08d", "metric": "thumbs_up", "value": true}', seed, count))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('RESULT {"requests": %d, "failed": %d, "microseconds": %d, "p50": %d, "p99": %d}\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
