-- Reports one distinct use in each request. Arguments: the name of the run, the number of customers, the services.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  event = args[1] .. "-" .. id .. "-"
  customers = tonumber(args[2])
  services = {}
  for name in args[3]:gmatch("[^,]+") do services[#services + 1] = name end
  head = "POST /usage HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
  number = 0
end

function request()
  local n = number
  number = n + 1
  local body = '{"customerId":"customer-' .. n % customers .. '","service":"'
    .. services[math.floor(n / customers) % #services + 1] .. '","unitsConsumed":"' .. n % 997 + 1
    .. '.25","pricePerUnit":"0.0235","eventId":"' .. event .. n .. '"}'
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"answered":%d,"refused":%d,"lost":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
