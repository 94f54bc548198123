-- Takes places of each rate bucket, or of none; or changes what was taken, whatever is there.
--
-- KEYS      one per bucket; its value: when the bucket is full again, in microseconds of this server's clock
-- ARGV[1]   `take` or `add`
-- then for each bucket four:
--   places a minute
--   `1` when the bucket may be further ahead than a minute (tokens, whose number is known later), else `0`
--   places to take; with `add` they may be negative: then they are given back
--   places that the caller gave without asking while it could not ask: charged first, also when the bucket refuses
--
-- Answers { 0, 0, remaining, reset, ... } with one pair per bucket, or { i, wait } when bucket i refuses;
-- times in microseconds. All arithmetic is in quarters of a microsecond, which doubles hold exactly.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local adding = ARGV[1] == 'add'
local answer = { 0, 0 }
local refusal = nil
local before = {}
local ahead = {}
local owing = false
local day = 86400000000

for i, key in ipairs(KEYS) do
  local rate = tonumber(ARGV[4 * i - 2])
  local tokens = ARGV[4 * i - 1] == '1'
  local places = tonumber(ARGV[4 * i])
  local owed = tonumber(ARGV[4 * i + 1])
  local interval = math.ceil(240000000 / rate) / 4
  local capacity = interval * rate
  -- tokens are many: what they take is rounded once for all of them
  local amount = function(count)
    return interval * count
  end
  if tokens then
    capacity = 60000000
    amount = function(count)
      return math.ceil(count * 240000000 / rate) / 4
    end
  end
  local full_at = tonumber(redis.call('GET', key) or now) or now
  local used = math.min(math.max(full_at - now, 0) + amount(owed), tokens and day or capacity)
  owing = owing or owed > 0
  before[i] = used
  if adding then
    ahead[i] = math.min(used + amount(places), tokens and day or capacity)
  else
    local taken = amount(math.min(places, rate))
    if used > capacity - taken then
      refusal = refusal or { i, math.ceil(used - (capacity - taken)) }
    else
      ahead[i] = used + taken
      answer[#answer + 1] = math.floor((capacity - ahead[i]) * (rate / capacity) + 0.000001)
      answer[#answer + 1] = math.ceil(ahead[i])
    end
  end
end

if refusal then
  if not owing then
    return refusal
  end
  ahead = before
  answer = refusal
end

for i, key in ipairs(KEYS) do
  if ahead[i] > 0 then
    redis.call('SET', key, string.format('%.2f', now + ahead[i]), 'PX', math.ceil(ahead[i] / 1000) + 1)
  else
    redis.call('DEL', key)
  end
end

return answer
