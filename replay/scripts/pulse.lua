#!lua
-- Asks how a silent session is, and, while no worker holds it, appends the keep-alive that is due.
--
-- KEYS  record
-- ARGV  session, silence_ms after which a comment is due (-1: never), the comment
-- Returns {'gone'} or {state, end, last_ms, now_ms}.
local record = KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'end', 'last_ms', 'lease_until_ms')
local now, silence, at = now_ms(), number(ARGV[2]), number(is['end'])
local waits = is.state == 'queued' or is.state == 'loading'
if waits and silence >= 0 and number(is.lease_until_ms) <= now and now - number(is.last_ms) >= silence then
  if not add_chunk(ARGV[1], at, ARGV[3], 2 ^ 53) then
    if at == 0 then redis.call('PEXPIRE', ARGV[1] .. ':stream', redis.call('PTTL', record)) end
    at = at + #ARGV[3]
    redis.call('HSET', record, 'end', int(at), 'last_ms', int(now))
    is.last_ms = int(now)
  end
end
return { is.state, int(at), is.last_ms, int(now) }
