-- For wrk: POSTs one body again and again, or, with FRESH set, one whose first words were never sent before.
local file = assert(io.open(os.getenv("BODY"), "rb"))
local body = file:read("*a")
file:close()
local fresh = os.getenv("FRESH") == "1"
local count, seed = 0, os.getenv("SEED") or "0"

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
for line in string.gmatch(os.getenv("HEADERS") or "", "[^\n]+") do
  local name, value = string.match(line, "^([^:]+): (.*)$")
  wrk.headers[name] = value
end

function request()
  if not fresh then
    return wrk.format(nil, nil, nil, body)
  end
  count = count + 1
  -- as long as what it stands for, so that the size stays
  local unique = string.format("%s %08d", seed, count)
  return wrk.format(nil, nil, nil, (string.gsub(body, "NEVERSEENQUERY", unique, 1)))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('RESULT {"requests": %d, "failed": %d, "microseconds": %d, "p50": %d, "p99": %d}\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
