-- Stands before every script of this folder (replay/redis_scripts.py puts it there).
--
-- Rules: everything is validated before the first write, because Redis rolls nothing back; XADD is
-- the first write and the only one that can fail; numbers leave Lua through int(), because Lua's own
-- formatting rounds above 1e14; no key is created without a TTL.

local END_ID = '18446744073709551615-18446744073709551615'
local GRACE_MS = 120000       -- keys outlive the retention by this, so that attached readers finish
local EVICTED_MS = 30000      -- and an evicted session by this
local TOMBSTONE_MS = 600000   -- how long a 404 can say what became of the session
local STOPPED_MS = 10000      -- how long a stop refuses a POST that was in validation when it came
local ROUTE_MS = 30 * 86400000
local RECOVERY_MS = 10000     -- how long after a restart of Redis a producer may take to make itself known
local LOST_BYTES = 1048576    -- more than any producer writes in the seconds that Redis may forget

local function int(n) return string.format('%.0f', n) end

-- With microseconds behind the point.
local function exact_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end

local function now_ms() return math.floor(exact_ms()) end

local function final(state)
  return state == 'completed' or state == 'stopped' or state == 'failed' or state == 'lost'
end

-- Fields of a hash as a table; a missing one is ''.
local function fields(key, ...)
  local names = { ... }
  local values = redis.call('HMGET', key, ...)
  local got = {}
  for i, name in ipairs(names) do got[name] = values[i] or '' end
  return got
end

local function number(text) return tonumber(text) or 0 end

-- Which session an idempotency key has opened, and for which request.
local function note_intent(intent, epoch, model, request_sha256, ms)
  redis.call('SET', intent, epoch .. ':' .. model .. ':' .. request_sha256, 'PX', ms)
end

-- XADD at the log's end. The record's `end` can only differ from the stream's last id if an earlier
-- script died between two writes; the stream is then right, and the caller hears its end.
local function add_chunk(session, at, data, window)
  local id = int(at + #data)
  local added = redis.pcall('XADD', session .. ':stream', 'MINID', '=', int(math.max(0, at + #data - window)),
    id .. '-0', 'd', data)
  if type(added) == 'table' and added.err then
    local last = redis.call('XREVRANGE', session .. ':stream', '+', '-', 'COUNT', 1)
    local stored = last[1] and number(string.match(last[1][1], '^%d+')) or 0
    if stored == at then return redis.error_reply(added.err) end
    redis.call('HSET', session .. ':record', 'end', int(stored))
    return { err = 'moved', at = stored }
  end
  redis.call('PUBLISH', session .. ':channel', 'c' .. int(at) .. '\n' .. data)
  return nil
end

-- Names this start of Redis. After another one, or a failover, Redis may have forgotten what it had told.
local function run_id() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '' end

-- Whoever writes for a session without having its body, under another Redis than its producer last
-- reconciled with, marks the log's end as its doubt: bytes above it may have been delivered whose place
-- other bytes now take. Readers hear 'd<offset> <number of the mark>'. Returns whether there is a doubt.
-- The number is never given twice, as an epoch is not: a mark that is forgotten has been heard.
local function mark_doubt(session, at)
  local record = session .. ':record'
  local is, now_run = fields(record, 'run_id', 'doubt', 'doubt_end', 'doubts'), run_id()
  if is.run_id == now_run then return false end
  local from, to = at, math.max(number(is.doubt_end), at + LOST_BYTES)
  local mark = int(math.max(number(is.doubts) + 1, now_ms()))
  if number(is.doubts) > 0 then from = math.min(from, number(is.doubt)) end
  redis.call('HSET', record, 'run_id', now_run, 'doubt', int(from), 'doubt_end', int(to), 'doubts', mark)
  redis.call('PUBLISH', session .. ':channel', 'd' .. int(at) .. ' ' .. mark)
  return true
end

-- Whoever watches the conversations of this slot looks again.
local function tell_news(session)
  redis.call('PUBLISH', string.match(session, '^.-}:') .. 'news', '')
end

-- Ends a session: the end entry, whose id is the greatest there is, so that Redis itself refuses
-- whatever follows; state and reason in the record; a TTL on every key; one message to the readers.
local function finish(session, state, reason, size, now)
  local record = session .. ':record'
  local retention = number(redis.call('HGET', record, 'retention_ms'))
  local told = cjson.encode({ state = state, reason = reason, size = int(size) })
  redis.call('XADD', session .. ':stream', END_ID, 'end', told)
  redis.call('HSET', record, 'state', state, 'reason', reason, 'end', int(size), 'ended_ms', int(now),
    'expires_ms', int(now + retention), 'lease_until_ms', '0')
  for _, kind in ipairs({ ':record', ':stream', ':tokens' }) do
    redis.call('PEXPIRE', session .. kind, int(retention + GRACE_MS))
  end
  if redis.call('HGET', record, 'owner') ~= '' then  -- nobody comes back to a plain session
    local stem, conversation = string.match(session, '^(.-}:)(.-)::')
    redis.call('PEXPIRE', stem .. 'route:' .. conversation, int(retention + GRACE_MS))
    redis.call('PEXPIRE', stem .. 'conversations', int(retention + GRACE_MS))
  end
  redis.call('PUBLISH', session .. ':channel', 'e' .. told)
  tell_news(session)
end

-- Stops a live session from outside (a DELETE, a newer POST, the reaper): its closing bytes, its end,
-- and a word to the worker that produces it. Returns the log's size.
local function close_from_outside(session, state, reason, closing, now)
  local was = fields(session .. ':record', 'end', 'worker')
  local size = number(was['end'])
  mark_doubt(session, size)
  if #closing > 0 then
    local failed = add_chunk(session, size, closing, 2 ^ 53)
    if failed and failed.at then
      size = failed.at
      failed = add_chunk(session, size, closing, 2 ^ 53)
    end
    if not failed then size = size + #closing end
  end
  finish(session, state, reason, size, now)
  if was.worker ~= '' then
    redis.call('PUBLISH', CONTROL .. was.worker, 'stop ' .. session)
  end
  return size
end
