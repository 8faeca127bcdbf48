#!lua
-- Appends bytes and tokens of the session's producer.
--
-- KEYS  record
-- ARGV  session, attempt, nonce, start, bytes, first token index, packed tokens, window
-- Returns {'appended' | 'at', end} or {'fenced'}, {'ended', state, reason}, {'gone'}.
-- 'at' means: nothing was done, go on at body[end:]. That one rule heals lost replies and other cuts.
local session, data = ARGV[1], ARGV[5]
local refused, at = refusal(KEYS[1], ARGV[2], ARGV[3])
if refused then return refused end
if at ~= number(ARGV[4]) then return { 'at', int(at) } end
return write(session, at, data, number(ARGV[6]), ARGV[7], number(ARGV[8]))
