#!lua flags=allow-oom
-- The sessions of a conversation that are worth compacting: ended long enough ago, of some size, and
-- not compacted. Plain ones are not: they are gone before it would pay.
--
-- KEYS  route
-- ARGV  stem, conversation, milliseconds since the end, bytes at least
-- Returns a list of {model, epoch, first retained offset, end, entries, ended_ms}.
local found, now = {}, now_ms()
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local epoch = string.match(all[i], '^s:(%d+)$')
  if epoch then
    local session = ARGV[1] .. ARGV[2] .. '::' .. all[i + 1] .. ':' .. epoch
    local is = fields(session .. ':record', 'state', 'owner', 'end', 'ended_ms', 'expires_ms', 'packed_bytes')
    local settled = final(is.state) and number(is.ended_ms) + number(ARGV[3]) <= now and number(is.expires_ms) > now
    local large = is.owner == '' and number(is.packed_bytes) == 0 and number(is['end']) >= number(ARGV[4])
    local first = settled and large and redis.call('XRANGE', session .. ':stream', '-', '+', 'COUNT', 1)[1]
    if first and first[2][1] == 'd' then
      local offset = int(number(string.match(first[1], '^%d+')) - #first[2][2])
      local entries = int(redis.call('XLEN', session .. ':stream'))
      found[#found + 1] = { all[i + 1], epoch, offset, is['end'], entries, is.ended_ms }
    end
  end
end
return found
