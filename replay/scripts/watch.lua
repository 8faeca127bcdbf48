#!lua flags=allow-oom
-- Puts a conversation into a shard of the watch index, or moves its next look, or takes it out.
--
-- KEYS  shard
-- ARGV  conversation path, milliseconds until the next look ('': take it out), score seen ('' : any)
-- Returns the score of the next look, or ''.
-- With a score seen, nothing is done where it has changed: a POST has announced a new session since.
-- Without one it is an announcement, which never puts a look off: who announces again and again (a
-- POST that waits for its turn) would else keep every sweeper away from a session whose worker died.
local seen = ARGV[3]
if seen ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= seen then return '' end
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return ''
end
local score = now_ms() + number(ARGV[2])
local before = seen == '' and redis.call('ZSCORE', KEYS[1], ARGV[1])
if before then score = math.min(score, tonumber(before) - 1) end
score = int(score)
redis.call('ZADD', KEYS[1], score, ARGV[1])
redis.call('PEXPIRE', KEYS[1], int(ROUTE_MS))
return score
