#!lua flags=allow-oom
-- Notes the time of a worker's or node's heartbeat, and forgets whose last one is long past.
--
-- KEYS  index
-- ARGV  member, milliseconds after which a member is forgotten
local now = now_ms()
redis.call('ZADD', KEYS[1], int(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now - number(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
