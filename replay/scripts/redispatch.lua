#!lua flags=allow-oom
-- Counts another dispatch of a session that is queued and has no job.
--
-- KEYS  record
-- ARGV  dispatch as seen
-- Returns the new dispatch number, or 0 where the session is not queued or another was faster.
local is = fields(KEYS[1], 'state', 'dispatch')
if is.state ~= 'queued' or is.dispatch ~= ARGV[1] then return 0 end
return redis.call('HINCRBY', KEYS[1], 'dispatch', 1)
