#!lua flags=allow-oom
-- Notes that the attempt is about to reach the engine: a death from now on is counted against the session.
--
-- KEYS  record
-- ARGV  attempt, nonce
-- Returns {'renewed'}, {'fenced'}, {'ended', state, reason}, {'forgotten'} or {'gone'}.
local record = KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'reason', 'attempt', 'nonce')
if final(is.state) then return { 'ended', is.state, is.reason } end
if number(is.attempt) < number(ARGV[1]) then return { 'forgotten' } end
if is.attempt ~= ARGV[1] or is.nonce ~= ARGV[2] then return { 'fenced' } end
redis.call('HSET', record, 'entered', ARGV[1])
return { 'renewed' }
