#!lua flags=allow-oom
-- Writes what is there already, so that its connection can wait for whatever was written before.
--
-- KEYS  a key
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
