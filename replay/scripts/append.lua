#!lua
-- Appends bytes and tokens of the session's producer.
--
-- KEYS  record
-- ARGV  session, attempt, nonce, start, bytes, first token index, packed tokens, window
-- Returns {'appended' | 'at', end, tokens} or {'fenced'}, {'ended', state, reason}, and, where Redis has
-- forgotten the claim or the whole session, {'forgotten'} or {'gone'}.
-- 'at' means: nothing was done, go on at body[end:]. That one rule heals lost replies and other cuts.
local session, data = ARGV[1], ARGV[5]
local refused, at, count = refusal(KEYS[1], ARGV[2], ARGV[3])
if refused then return refused end
return write(session, at, count, number(ARGV[4]), data, number(ARGV[6]), ARGV[7], number(ARGV[8]))
