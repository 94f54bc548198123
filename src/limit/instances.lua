-- Says that this instance lives, and answers how many said so within the last minute.
--
-- KEYS[1]  the set of instances, by the time they were last seen
-- ARGV[1]  this instance

local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (time[1] - 60))
redis.call('EXPIRE', KEYS[1], 120)
return redis.call('ZCARD', KEYS[1])
