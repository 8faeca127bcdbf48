#!lua
-- Opens a session: gives it its epoch, ends the one before it, writes record and route, in one step.
--
-- KEYS  route, conversations, line, then the intent where there is an idempotency key
-- ARGV  stem, conversation, model, arrived_ms, nonce, live_ms, route_ms, closing bytes of the
--       replaced session, if_busy, queue number, place_ms, how many may wait, request_sha256,
--       intent_ms, number of stop markers, the markers' keys, then the record's fields
-- Returns {'opened', epoch, created_ms, epoch, model and dispatch of the replaced session or ''},
--         {'attached', epoch}, {'busy', epoch and model of the live session or ''},
--         {'mismatch'}, {'stopped'} or {'full'}.
local route, conversations, line, intent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stem, conversation, model = ARGV[1], ARGV[2], ARGV[3]
local arrived, nonce, live, route_ms, closing = number(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local if_busy, queue_number, place_ms, line_max = ARGV[9], ARGV[10], ARGV[11], number(ARGV[12])
local request_sha256, intent_ms, markers = ARGV[13], ARGV[14], number(ARGV[15])
local FIXED = 15
local now = now_ms()

local function session_of(model, epoch) return stem .. conversation .. '::' .. model .. ':' .. epoch end

local known = fields(route, 'epoch', 'current', 'model', 'nonce', 'created_ms')
if known.nonce == nonce then  -- the reply was lost and the caller asks again
  return { 'opened', known.epoch, known.created_ms, '', '', '' }
end

-- Before whatever is live, and before a stop: a late repetition hears of its own session only.
local kept = intent and redis.call('GET', intent)
if kept then
  local epoch, its_model, sha256 = string.match(kept, '^(%d+):(.-):(.*)$')
  local is = fields(session_of(its_model, epoch) .. ':record', 'state', 'reason')
  local begun = not (is.state == 'failed' and (is.reason == 'queue' or is.reason == 'limit'))
  if begun and sha256 ~= request_sha256 then return { 'mismatch' } end
  if begun then return { 'attached', epoch } end
end
for i = FIXED + 1, FIXED + markers do
  if number(redis.call('GET', ARGV[i])) >= arrived then return { 'stopped' } end
end

local before, is_busy
if known.current ~= '' then
  before = session_of(known.model, known.current)
  local state = redis.call('HGET', before .. ':record', 'state')
  is_busy = state and not final(state)
end
if is_busy and if_busy == 'attach' then return { 'attached', known.current } end
if is_busy and if_busy == 'reject' then return { 'busy', known.current, known.model } end
if if_busy == 'queue' then
  if not redis.call('ZSCORE', line, nonce) and redis.call('ZCARD', line) >= line_max then return { 'full' } end
  redis.call('ZADD', line, 'NX', queue_number, nonce)
  redis.call('PEXPIRE', line, place_ms)
  redis.call('SET', line .. ':' .. nonce, '', 'PX', place_ms)
  local first = redis.call('ZRANGE', line, 0, 0)[1]
  while redis.call('EXISTS', line .. ':' .. first) == 0 do  -- its node has died
    redis.call('ZREM', line, first)
    first = redis.call('ZRANGE', line, 0, 0)[1]
  end
  if is_busy then return { 'busy', known.current, known.model } end
  if first ~= nonce then return { 'busy', '', '' } end
  redis.call('ZREM', line, nonce)
  redis.call('DEL', line .. ':' .. nonce)
end

local replaced = { '', '', '' }
if is_busy then
  close_from_outside(before, 'stopped', 'replaced', closing, now)
  replaced = { known.current, known.model, redis.call('HGET', before .. ':record', 'dispatch') }
end

-- Never given twice, whatever expired or was forgotten: Redis's clock goes on.
local epoch = int(math.max(number(known.epoch) + 1, now))
local session = session_of(model, epoch)
local record = { 'HSET', session .. ':record' }
for i = FIXED + 1 + markers, #ARGV do record[#record + 1] = ARGV[i] end
for _, value in ipairs({ 'epoch', epoch, 'state', 'queued', 'reason', '', 'attempt', '0', 'nonce', '',
  'created_ms', int(now), 'deaths', '0', 'last_ms', int(now), 'end', '0', 'token_count', '0', 'dispatch', '1',
  'lease_until_ms', '0', 'ended_ms', '0', 'expires_ms', '0', 'run_id', run_id() }) do
  record[#record + 1] = value
end
redis.call(unpack(record))
redis.call('PEXPIRE', session .. ':record', live)
redis.call('HSET', route, 'epoch', epoch, 'current', epoch, 'model', model, 'nonce', nonce,
  'created_ms', int(now), 's:' .. epoch, model)
redis.call('PEXPIRE', route, route_ms)
redis.call('SADD', conversations, conversation)
if redis.call('PTTL', conversations) < number(route_ms) then redis.call('PEXPIRE', conversations, route_ms) end
if intent then note_intent(intent, epoch, model, request_sha256, intent_ms) end
-- Sessions whose retention has passed leave the route's list.
local all = redis.call('HGETALL', route)
for i = 1, #all, 2 do
  local old = string.match(all[i], '^s:(%d+)$')
  if old and redis.call('EXISTS', session_of(all[i + 1], old) .. ':record') == 0 then
    redis.call('HDEL', route, all[i])
  end
end
tell_news(session)
return { 'opened', epoch, int(now), unpack(replaced) }
