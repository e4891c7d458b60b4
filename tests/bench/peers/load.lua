-- For wrk: POSTs the same body again and again. With FRESH=1, each body has a query that begins and ends with new words.
local file = assert(io.open(os.getenv("BODY"), "rb"))
local body = file:read("*a")
file:close()
local fresh = os.getenv("FRESH") == "1"
local words, length = {}, tonumber(os.getenv("LENGTH") or "0")
for word in string.gmatch(os.getenv("WORDS") or "", "%S+") do
  words[#words + 1] = word
end

-- Each run has a seed of its own, so that no two runs at one gateway send the same sentences.
local seed = 0
for place = 1, #(os.getenv("SEED") or "") do
  seed = (seed * 31 + string.byte(os.getenv("SEED"), place)) % 2147483647
end
math.randomseed(seed)

local function new_text()
  local chosen, size = {}, 0
  while size < length do
    local word = words[math.random(#words)]
    chosen[#chosen + 1] = word
    size = size + #word + 1
  end
  return table.concat(chosen, " ")
end

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
  return wrk.format(nil, nil, nil, (string.gsub(body, "NEVERSEENQUERY", new_text)))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('RESULT {"requests": %d, "failed": %d, "microseconds": %d, "p50": %d, "p99": %d}\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
