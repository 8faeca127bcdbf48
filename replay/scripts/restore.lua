#!lua flags=allow-oom
-- Makes a claim, or a whole session, known again that Redis has forgotten. Its producer, who has the
-- body, then appends what is missing.
--
-- KEYS  record, route, conversations, then the intent where there is an idempotency key
-- ARGV  session, stem, conversation, model, epoch, attempt, nonce, worker, lease_ms, live_ms, route_ms,
--       offset at which the producer's body begins, offset up to which readers may have been given it
--       ('' where it has not compared its body with the log yet), closing bytes of a session that was
--       replaced, request_sha256, intent_ms, then the record's fields
-- Returns {'restored', end, tokens, '1' where the log has all that readers have}, {'fenced'} or {'ended'}.
local record, route, conversations = KEYS[1], KEYS[2], KEYS[3]
local session, stem, conversation, model, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local attempt, nonce, live = ARGV[6], ARGV[7], ARGV[10]
local now = now_ms()

if redis.call('EXISTS', record) == 1 then
  local is = fields(record, 'state', 'attempt', 'nonce')
  if final(is.state) then return { 'ended' } end
  if number(is.attempt) > number(attempt) or (is.attempt == attempt and is.nonce ~= nonce) then
    return { 'fenced' }
  end
else
  local known = fields(route, 'epoch', 'current', 'model', 'erased')
  if number(known.epoch) > number(epoch) or number(known.erased) >= number(epoch) then return { 'ended' } end
  if known.current ~= '' and known.current ~= epoch then
    local before = stem .. conversation .. '::' .. known.model .. ':' .. known.current
    local state = redis.call('HGET', before .. ':record', 'state')
    if state and not final(state) then close_from_outside(before, 'stopped', 'replaced', ARGV[14], now) end
  end
  local words = { 'HSET', record }
  for i = 17, #ARGV do words[#words + 1] = ARGV[i] end
  redis.call(unpack(words))
  redis.call('HSET', record, 'end', ARGV[12], 'token_count', '0', 'run_id', '', 'last_ms', int(now))
  redis.call('HSET', route, 'epoch', epoch, 'current', epoch, 'model', model, 's:' .. epoch, model)
  redis.call('PEXPIRE', route, ARGV[11])
  redis.call('SADD', conversations, conversation)
  redis.call('PEXPIRE', conversations, ARGV[11])
  if KEYS[4] then note_intent(KEYS[4], epoch, model, ARGV[15], ARGV[16]) end
end
redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'nonce', nonce, 'worker', ARGV[8],
  'lease_until_ms', int(now + number(ARGV[9])))
redis.call('PEXPIRE', record, live)
local is = fields(record, 'end', 'token_count')
local whole = ARGV[13] ~= '' and number(is['end']) >= number(ARGV[13])
if whole then redis.call('HSET', record, 'run_id', run_id()) end
return { 'restored', is['end'], is.token_count, whole and '1' or '' }
