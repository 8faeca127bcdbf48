#!lua flags=allow-oom
-- Renews the lease of the session's producer, also where it was given up already and not claimed anew.
--
-- KEYS  record
-- ARGV  session, attempt, nonce, lease_ms, live_ms
-- Returns {'renewed'}, {'moved'} (renewed, under another Redis than it reconciled with), {'fenced'},
-- {'ended', state, reason}, {'forgotten'} or {'gone'}.
local record = KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'reason', 'attempt', 'nonce', 'run_id')
if final(is.state) then return { 'ended', is.state, is.reason } end
if number(is.attempt) < number(ARGV[2]) then return { 'forgotten' } end
if is.attempt ~= ARGV[2] or is.nonce ~= ARGV[3] then return { 'fenced' } end
redis.call('HSET', record, 'state', 'running', 'lease_until_ms', int(now_ms() + number(ARGV[4])))
for _, kind in ipairs({ ':record', ':stream', ':tokens' }) do
  redis.call('PEXPIRE', ARGV[1] .. kind, ARGV[5])
end
return { is.run_id == run_id() and 'renewed' or 'moved' }
