#!lua
-- Opens a session: gives it its epoch, ends the one before it, writes record and route, in one step.
--
-- KEYS  route, conversations
-- ARGV  stem, conversation, model, validated_ms, nonce, live_ms, route_ms, closing bytes of the
--       replaced session, number of stop markers, the markers' keys, then the record's fields
-- Returns {'opened', epoch, created_ms, epoch, model and dispatch of the replaced session or ''} or {'stopped'}.
local route, conversations = KEYS[1], KEYS[2]
local stem, conversation, model = ARGV[1], ARGV[2], ARGV[3]
local validated, nonce, live, route_ms, closing = number(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local now = now_ms()

local known = fields(route, 'epoch', 'current', 'model', 'nonce', 'created_ms')
if known.nonce == nonce then  -- the reply was lost and the caller asks again
  return { 'opened', known.epoch, known.created_ms, '', '', '' }
end
local markers = number(ARGV[9])
for i = 10, 9 + markers do
  if number(redis.call('GET', ARGV[i])) >= now - validated then return { 'stopped' } end
end

local replaced = { '', '', '' }
if known.current ~= '' then
  local before = stem .. conversation .. '::' .. known.model .. ':' .. known.current
  local state = redis.call('HGET', before .. ':record', 'state')
  if state and not final(state) then
    close_from_outside(before, 'stopped', 'replaced', closing, now)
    replaced = { known.current, known.model, redis.call('HGET', before .. ':record', 'dispatch') }
  end
end

-- Never given twice, whatever expired or was forgotten: Redis's clock goes on.
local epoch = int(math.max(number(known.epoch) + 1, now))
local session = stem .. conversation .. '::' .. model .. ':' .. epoch
local record = { 'HSET', session .. ':record' }
for i = 10 + markers, #ARGV do record[#record + 1] = ARGV[i] end
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
-- Sessions whose retention has passed leave the route's list.
local all = redis.call('HGETALL', route)
for i = 1, #all, 2 do
  local old = string.match(all[i], '^s:(%d+)$')
  if old and redis.call('EXISTS', stem .. conversation .. '::' .. all[i + 1] .. ':' .. old .. ':record') == 0 then
    redis.call('HDEL', route, all[i])
  end
end
return { 'opened', epoch, int(now), unpack(replaced) }
