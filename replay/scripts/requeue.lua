#!lua flags=allow-oom
-- Makes a session whose producer is gone claimable again; its job is the caller's to enqueue.
--
-- KEYS  record
-- ARGV  lease_until_ms as seen ('' where the producer itself hands over), attempt, nonce,
--       tokens that clear a suspicion, deaths at most in all
-- Returns {'queued', dispatch}, {'poison'} (it killed its workers; end it) or {'no'}.
--
-- Only the claim raises the attempt, so a producer that was merely slow renews and goes on. A death is
-- counted against a session that had reached the engine, a hand-over is not; new tokens show that the
-- session is not to blame. After one death it runs beside no other such session, so a second in a row
-- proves it.
local record, now = KEYS[1], now_ms()
local is = fields(record, 'state', 'lease_until_ms', 'attempt', 'nonce', 'token_count', 'claimed_tokens', 'deaths',
  'hand_overs', 'entered')
if is.state ~= 'running' then return { 'no' } end
local deaths, hand_overs, nonce = number(is.deaths), number(is.hand_overs), is.nonce
if number(is.token_count) - number(is.claimed_tokens) >= number(ARGV[4]) then deaths = 0 end
if ARGV[1] ~= '' then
  if is.lease_until_ms ~= ARGV[1] or number(is.lease_until_ms) > now then return { 'no' } end
  if is.entered == is.attempt then deaths = deaths + 1 else hand_overs = hand_overs + 1 end
  if deaths >= 2 or number(is.attempt) - hand_overs >= number(ARGV[5]) then return { 'poison' } end
elseif is.attempt ~= ARGV[2] or is.nonce ~= ARGV[3] then
  return { 'no' }
else
  hand_overs = hand_overs + 1
  nonce = ''  -- it meant to: a renewal that is still under way must not undo it
end
redis.call('HSET', record, 'state', 'queued', 'lease_until_ms', '0', 'worker', '', 'nonce', nonce, 'deaths', int(deaths),
  'hand_overs', int(hand_overs))
return { 'queued', redis.call('HINCRBY', record, 'dispatch', 1) }
