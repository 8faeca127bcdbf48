#!lua flags=allow-oom
-- Ends the conversation's current session, and without `keep` evicts all that is retained of it.
--
-- KEYS  route
-- ARGV  stem, conversation, epoch or '', keep ('1' or ''), reason, closing bytes
-- Returns {'none'}, {'mismatch', current epoch} or
--         {'stopped' | 'was', epoch, model, state, reason, size, worker, queue number, dispatch, lease_until_ms}.
local route, stem, conversation = KEYS[1], ARGV[1], ARGV[2]
local now = now_ms()
local known = fields(route, 'current', 'model')
if known.current == '' then return { 'none' } end
if ARGV[3] ~= '' and ARGV[3] ~= known.current then return { 'mismatch', known.current } end

local session = stem .. conversation .. '::' .. known.model .. ':' .. known.current
local record = session .. ':record'
local is = fields(record, 'state', 'reason', 'end', 'worker', 'queue_number', 'dispatch', 'lease_until_ms')
local has_expired, what, size = is.state == '', 'was', number(is['end'])
if not has_expired and not final(is.state) then
  size = close_from_outside(session, 'stopped', ARGV[5], ARGV[6], now)
  what, is.state, is.reason = 'stopped', 'stopped', ARGV[5]
end
if ARGV[4] == '' then
  local all = redis.call('HGETALL', route)
  for i = 1, #all, 2 do
    local epoch = string.match(all[i], '^s:(%d+)$')
    if epoch then
      local old = stem .. conversation .. '::' .. all[i + 1] .. ':' .. epoch
      if redis.call('EXISTS', old .. ':record') == 1 then
        redis.call('HSET', old .. ':record', 'expires_ms', '1')
        for _, kind in ipairs({ ':record', ':stream', ':tokens' }) do
          redis.call('PEXPIRE', old .. kind, int(EVICTED_MS))
        end
      end
      redis.call('HDEL', route, all[i])
    end
  end
  redis.call('HSET', route, 'current', '', 'erased', known.current, 'gone_until_ms', int(now + TOMBSTONE_MS),
    'gone_state', is.state, 'gone_reason', is.reason)
  tell_news(session)
end
if has_expired then return { 'none' } end
return { what, known.current, known.model, is.state, is.reason, int(size), is.worker, is.queue_number, is.dispatch,
  is.lease_until_ms }
