-- For wrk: single entries, spread over experiments load-0 … load-(COUNT-1).
--   wrk … -s benches/entries.lua URL -- KEY COUNT
local count, requests = 0, {}
function init(args)
  count = tonumber(args[2])
  wrk.method = "POST"
  wrk.headers["x-api-key"] = args[1]
  wrk.headers["content-type"] = "application/json"
  wrk.body = [[{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}]]
  for n = 0, count - 1 do requests[n] = wrk.format(nil, "/experiment/load-" .. n .. "/log") end
end
function request() return requests[math.random(0, count - 1)] end
