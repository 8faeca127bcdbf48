#!lua flags=allow-oom
-- Makes a worker the session's producer, with the next attempt as its fencing token.
--
-- KEYS  record
-- ARGV  worker, nonce, lease_ms, live_ms, '1' where a session that workers died with may be claimed
-- Returns {'claimed', attempt}, {'held', worker, lease_until_ms}, {'ended', state, reason} or {'gone'}.
local record = KEYS[1]
if redis.call('EXISTS', record) == 0 then return { 'gone' } end
local is = fields(record, 'state', 'reason', 'attempt', 'nonce', 'worker', 'lease_until_ms', 'token_count',
  'deaths')
if final(is.state) then return { 'ended', is.state, is.reason } end
local now = now_ms()
if is.nonce == ARGV[2] then return { 'claimed', is.attempt } end  -- asked again after a lost reply
if ARGV[5] == '' and number(is.deaths) > 0 then return { 'held', '', '0' } end
if number(is.lease_until_ms) > now then return { 'held', is.worker, is.lease_until_ms } end
local attempt = int(number(is.attempt) + 1)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'nonce', ARGV[2], 'worker', ARGV[1],
  'lease_until_ms', int(now + number(ARGV[3])), 'run_id', run_id, 'claimed_tokens', is.token_count)
redis.call('PEXPIRE', record, ARGV[4])
return { 'claimed', attempt }
