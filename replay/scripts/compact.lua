#!lua flags=allow-oom
-- Puts few large blocks in the place of an ended log's many small entries, and drops what only a
-- producer needs: tokens and prompt. One step: a crash leaves the log as it was or as it is to be.
-- It frees memory, so it may write when memory is full.
--
-- KEYS  record
-- ARGV  session, then as seen: ended_ms, entries, first offset; then for each block: end, size,
--       deflated bytes
-- Returns 1, or 0 where the log is not the one that was seen: it is gone, evicted or compacted.
local record, session = KEYS[1], ARGV[1]
local stream = session .. ':stream'
local is = fields(record, 'state', 'ended_ms', 'expires_ms', 'end', 'packed_bytes')
if not final(is.state) or is.ended_ms ~= ARGV[2] or number(is.packed_bytes) > 0 then return 0 end
if number(is.expires_ms) <= now_ms() or redis.call('XLEN', stream) ~= number(ARGV[3]) then return 0 end
local expires, last = redis.call('PEXPIRETIME', stream), redis.call('XRANGE', stream, END_ID, END_ID)[1]
local at, packed = number(ARGV[4]), 0
for i = 5, #ARGV, 3 do
  if number(ARGV[i]) - number(ARGV[i + 1]) ~= at or number(ARGV[i + 1]) <= 0 then return 0 end
  at, packed = number(ARGV[i]), packed + #ARGV[i + 2]
end
if expires <= 0 or not last or at ~= number(is['end']) then return 0 end

redis.call('UNLINK', stream, session .. ':tokens')
for i = 5, #ARGV, 3 do
  redis.call('XADD', stream, ARGV[i] .. '-0', 'z', ARGV[i + 2], 'n', ARGV[i + 1])
end
redis.call('XADD', stream, END_ID, unpack(last[2]))
redis.call('PEXPIREAT', stream, int(expires))
redis.call('HSET', record, 'packed_bytes', int(packed),
  'prompt_token_count', int(redis.call('HSTRLEN', record, 'prompt') / 4))
redis.call('HDEL', record, 'prompt')
return 1
