#!lua flags=allow-oom
-- Ends a session that nobody produces any more, if it is still as it was when it was looked at.
--
-- KEYS  record
-- ARGV  session, lease_until_ms as seen ('': whatever the lease), state, reason, closing bytes,
--       '' or the offset from which on the log holds other bytes than readers were given
-- Returns 1 where it ended the session.
local is = fields(KEYS[1], 'state', 'lease_until_ms')
local now = now_ms()
if is.state == '' or final(is.state) then return 0 end
if ARGV[2] ~= '' and (is.lease_until_ms ~= ARGV[2] or number(is.lease_until_ms) > now) then return 0 end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'run_id', '')
  mark_doubt(ARGV[1], number(ARGV[6]))
end
close_from_outside(ARGV[1], ARGV[3], ARGV[4], ARGV[5], now)
return 1
