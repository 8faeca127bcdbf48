#!lua flags=allow-oom
-- Puts a conversation into a shard of the watch index, or moves its next look, or takes it out.
--
-- KEYS  shard
-- ARGV  conversation path, milliseconds until the next look ('': take it out), score seen ('' : any)
-- Returns the score of the next look, or ''.
-- With a score seen, nothing is done where it has changed: a POST has announced a new session since.
local seen = ARGV[3]
if seen ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= seen then return '' end
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return ''
end
local score = int(now_ms() + number(ARGV[2]))
redis.call('ZADD', KEYS[1], score, ARGV[1])
redis.call('PEXPIRE', KEYS[1], int(ROUTE_MS))
return score
