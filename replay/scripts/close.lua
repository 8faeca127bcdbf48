#!lua flags=allow-oom
-- Appends the last bytes and tokens, and ends the session, in one call: with two, a death between
-- them would leave a finished answer in a running session. May write when memory is full.
--
-- KEYS  record
-- ARGV  as append.lua, then state, reason
-- Returns as append.lua; 'appended' means ended.
local session, data = ARGV[1], ARGV[5]
local refused, at, count = refusal(KEYS[1], ARGV[2], ARGV[3])
if refused then return refused end
local done = write(session, at, count, number(ARGV[4]), data, number(ARGV[6]), ARGV[7], number(ARGV[8]))
if done[1] == 'appended' then finish(session, ARGV[9], ARGV[10], at + #data, now_ms()) end
return done
