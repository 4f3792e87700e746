-- Sends the requests of a file, one after the other, over all connections, for a fixed time.
--
-- Arguments: a file written by bench/requests.py, the seconds, and the number of the request to start with.
--
-- After that time no connection sends anything more, and wrk waits for the responses in flight. Otherwise the last
-- requests would be stored but not counted. So `done` knows exactly how many got a response.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long microseconds; } bench_time;
  int gettimeofday(bench_time *now, void *zone);
]]
local now = ffi.new("bench_time")

local function clock()
  ffi.C.gettimeofday(now, nil)
  return tonumber(now.seconds) + tonumber(now.microseconds) / 1e6
end

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

local requests = {}
local at, until_s

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local data = file:read("*a")
  file:close()
  local place = 1
  while place <= #data do
    local newline = data:find("\n", place, true)
    local length = tonumber(data:sub(place, newline - 1))
    requests[#requests + 1] = data:sub(newline + 1, newline + length)
    place = newline + 1 + length
  end
  seconds = tonumber(args[2])
  at = (tonumber(args[3] or 0) + number * 9973) % #requests
  sent = 0
  rehearsed = number > 0
end

function request()
  if not rehearsed then -- before it starts, wrk calls this once in the first thread to check that it returns HTTP
    rehearsed = true
    return requests[1]
  end
  local time = clock()
  if not until_s then until_s = time + seconds end
  if time >= until_s then return "" end -- wrk sends nothing for this and expects no response
  at = at % #requests + 1
  sent = sent + 1
  return requests[at]
end

function done(summary, latency, rate)
  local sent = 0
  for _, thread in ipairs(threads) do sent = sent + thread:get("sent") end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"sent": %d, "answered": %d, "not_2xx": %d, "failed": %d, '
      .. '"p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
    sent, summary.requests, errors.status, errors.connect + errors.read + errors.write,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
