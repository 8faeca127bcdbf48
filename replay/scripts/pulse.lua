#!lua flags=allow-oom
-- Asks how a silent session is, and, while no worker holds it, appends the keep-alive that is due.
--
-- KEYS  record
-- ARGV  session, silence_ms after which a comment is due (-1: never), the comment
-- Returns {'gone'} or {state, end, last_ms, now_ms, doubt, doubt_end, doubts}.
local session, record = ARGV[1], KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'end', 'last_ms', 'lease_until_ms', 'run_id', 'other_run', 'other_ms')
local now, silence, at = now_ms(), number(ARGV[2]), number(is['end'])

-- After a restart of Redis a producer whose claim was forgotten is given time to say so: a comment of
-- ours in its place would end its session.
local function may_comment()
  local run = run_id()
  if is.run_id == run then return true end
  if is.other_run ~= run then
    redis.call('HSET', record, 'other_run', run, 'other_ms', int(now))
    return false
  end
  if now - number(is.other_ms) < RECOVERY_MS then return false end
  return mark_doubt(session, at)
end

local waits = is.state == 'queued' or is.state == 'loading'
local due = waits and silence >= 0 and number(is.lease_until_ms) <= now and now - number(is.last_ms) >= silence
if due and may_comment() and not add_chunk(session, at, ARGV[3], 2 ^ 53) then
  redis.call('PEXPIRE', session .. ':stream', redis.call('PTTL', record))
  at = at + #ARGV[3]
  redis.call('HSET', record, 'end', int(at), 'last_ms', int(now))
  is.last_ms = int(now)
end
local doubt = fields(record, 'doubt', 'doubt_end', 'doubts')
return { is.state, int(at), is.last_ms, int(now), doubt.doubt, doubt.doubt_end, doubt.doubts }
