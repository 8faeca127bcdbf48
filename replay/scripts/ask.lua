#!lua flags=no-writes
-- Asks how a session is, and changes nothing: answered also by a Redis that cannot write.
--
-- KEYS  record
-- Returns as pulse.lua.
if redis.call('EXISTS', KEYS[1]) == 0 then return { 'gone' } end
local is = fields(KEYS[1], 'state', 'end', 'last_ms', 'doubt', 'doubt_end', 'doubts')
return { is.state, int(number(is['end'])), is.last_ms, int(now_ms()), is.doubt, is.doubt_end, is.doubts }
