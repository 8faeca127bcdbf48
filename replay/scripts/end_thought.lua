#!lua flags=allow-oom
-- Orders the end of a session's thought: in its record, and to the worker that produces it.
--
-- KEYS  record
-- ARGV  session
-- Returns 'ordered', 'disabled' or 'gone'.
local record = KEYS[1]
local is = fields(record, 'state', 'reasoning_control', 'worker')
if is.state == '' or final(is.state) then return 'gone' end
if is.reasoning_control ~= '1' then return 'disabled' end
redis.call('HSET', record, 'reasoning_end', '1')
if is.worker ~= '' then redis.call('PUBLISH', CONTROL .. is.worker, 'end-thought ' .. ARGV[1]) end
return 'ordered'
