#!lua flags=allow-oom
-- The conversations of one shard of the watch index whose look is due.
--
-- KEYS  shard
-- ARGV  how many at most
-- Returns {now_ms, path, score, path, score, ...}.
local now = int(now_ms())
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
table.insert(found, 1, now)
return found
