#!lua flags=allow-oom
-- Renews the record of a worker or a node: when memory is full, the living must not look dead.
--
-- KEYS  record
-- ARGV  the record as JSON, ttl_ms
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
