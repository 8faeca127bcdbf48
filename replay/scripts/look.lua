#!lua flags=allow-oom
-- Looks at the current session of a conversation, for the reaper.
--
-- KEYS  route
-- ARGV  stem, conversation
-- Returns {'none'} or {epoch, model, state, lease_until_ms, now_ms, created_ms, queue number, dispatch, owner, dialect, tokens, ended_ms}.
local known = fields(KEYS[1], 'current', 'model')
if known.current == '' then return { 'none' } end
local record = ARGV[1] .. ARGV[2] .. '::' .. known.model .. ':' .. known.current .. ':record'
if redis.call('EXISTS', record) == 0 then return { 'none' } end
local is = fields(record, 'state', 'lease_until_ms', 'created_ms', 'queue_number', 'dispatch', 'owner', 'dialect', 'token_count', 'ended_ms')
return { known.current, known.model, is.state, is.lease_until_ms, int(now_ms()), is.created_ms, is.queue_number,
  is.dispatch, is.owner, is.dialect, is.token_count, is.ended_ms }
