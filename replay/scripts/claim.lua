#!lua flags=allow-oom
-- Makes a worker the session's producer, with the next attempt as its fencing token.
--
-- KEYS  record
-- ARGV  session, worker, nonce, lease_ms, live_ms
-- Returns {'claimed', attempt, '1' where the log may have forgotten what was delivered}, {'held', worker, lease_until_ms}, {'ended', state, reason} or {'gone'}.
local record = KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'reason', 'attempt', 'nonce', 'worker', 'lease_until_ms', 'token_count',
  'deaths', 'end', 'doubts')
if final(is.state) then return { 'ended', is.state, is.reason } end
local now, doubted = now_ms(), number(is.doubts) > 0
if is.nonce == ARGV[3] then return { 'claimed', is.attempt, doubted and '1' or '' } end  -- its reply was lost
if number(is.lease_until_ms) > now then return { 'held', is.worker, is.lease_until_ms } end
local attempt = int(number(is.attempt) + 1)
redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'nonce', ARGV[3], 'worker', ARGV[2],
  'lease_until_ms', int(now + number(ARGV[4])), 'claimed_tokens', is.token_count)
-- A session that a worker died with waits at its worker, see enter.lua.
if number(is.deaths) == 0 then redis.call('HSET', record, 'entered', attempt) end
redis.call('PEXPIRE', record, ARGV[5])
doubted = mark_doubt(ARGV[1], number(is['end'])) or doubted
return { 'claimed', attempt, doubted and '1' or '' }
