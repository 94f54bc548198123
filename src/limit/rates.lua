-- Takes one place of each rate bucket, or of none; or gives one place of each back.
--
-- KEYS      one per bucket; its value: when the bucket is full again, in microseconds of this server's clock
-- ARGV[1]   `take` or `give`
-- ARGV[2i]  requests a minute of KEYS[i]
-- ARGV[2i+1] places of KEYS[i] that the caller gave without asking while it could not ask: charged first,
--           also when the bucket refuses
--
-- Answers { 0, 0, remaining, reset, ... } with one pair per bucket, or { i, wait } when bucket i refuses;
-- times in microseconds. All arithmetic is in quarters of a microsecond, which doubles hold exactly.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local giving = ARGV[1] == 'give'
local answer = { 0, 0 }
local refusal = nil
local before = {}
local ahead = {}
local owing = false

for i, key in ipairs(KEYS) do
  local rate = tonumber(ARGV[2 * i])
  local owed = tonumber(ARGV[2 * i + 1])
  local interval = math.ceil(240000000 / rate) / 4
  local capacity = interval * rate
  local full_at = tonumber(redis.call('GET', key) or now) or now
  local used = math.min(math.max(full_at - now, 0) + owed * interval, capacity)
  owing = owing or owed > 0
  before[i] = used
  if giving then
    ahead[i] = used - interval
  elseif used > capacity - interval then
    refusal = refusal or { i, math.ceil(used - (capacity - interval)) }
  else
    ahead[i] = used + interval
    answer[#answer + 1] = math.floor((capacity - ahead[i]) / interval)
    answer[#answer + 1] = math.ceil(ahead[i])
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
