#!lua flags=allow-oom
-- The current sessions of the conversations of one slot that may answer to a name.
--
-- KEYS  conversations
-- ARGV  stem, encoded name, how many at most, then the record's fields that are wanted
-- A name may be longer than the conversation (it names a model too) or shorter (a prefix before '::').
-- Returns a list of lists of those fields' values.
local stem, name, most = ARGV[1], ARGV[2], number(ARGV[3])
local wanted = {}
for i = 4, #ARGV do wanted[#wanted + 1] = ARGV[i] end
local found, now = {}, now_ms()
for _, conversation in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if string.sub(conversation, 1, #name) == name or string.sub(name, 1, #conversation) == conversation then
    local route = stem .. 'route:' .. conversation
    if redis.call('EXISTS', route) == 0 then redis.call('SREM', KEYS[1], conversation) end
    local known = fields(route, 'current', 'model')
    if known.current ~= '' and #found < most then
      local record = stem .. conversation .. '::' .. known.model .. ':' .. known.current .. ':record'
      local expires = number(redis.call('HGET', record, 'expires_ms'))
      if redis.call('EXISTS', record) == 1 and (expires == 0 or expires > now) then
        found[#found + 1] = redis.call('HMGET', record, unpack(wanted))
      end
    end
  end
end
return found
