-- What append.lua and close.lua share; stands between common.lua and those two.

-- Whether this producer may not write: its answer, else nil, the log's end and its tokens.
local function refusal(record, attempt, nonce)
  local is = redis.call('HMGET', record, 'attempt', 'nonce', 'state', 'end', 'reason', 'token_count')
  if not is[3] then return { 'gone' } end
  if final(is[3]) then return { 'ended', is[3], is[5] } end
  if number(is[1]) < number(attempt) then return { 'forgotten' } end  -- Redis has lost this very claim
  if is[1] ~= attempt or is[2] ~= nonce then return { 'fenced' } end
  return nil, number(is[4]), number(is[6])
end

-- Tokens may come without bytes (half a code point, a held-back stop string), never the reverse order,
-- and never with a hole before them: what does not join the log's end and its tokens is told both.
local function write(session, at, count, start, data, first_token, tokens, window)
  if at ~= start or first_token > count then return { 'at', int(at), int(count) } end
  if #data > 0 then
    local failed = add_chunk(session, at, data, window)
    if failed then
      if failed.at then return { 'at', int(failed.at), int(count) } end
      return failed
    end
  end
  local record = session .. ':record'
  if #tokens > 0 then
    redis.call('SETRANGE', session .. ':tokens', int(8 * first_token), tokens)
    if first_token == 0 then redis.call('PEXPIRE', session .. ':tokens', redis.call('PTTL', record)) end
  end
  -- The first bytes; those of a session that was made known again may lie anywhere.
  if #data > 0 and (at == 0 or count == 0) then
    redis.call('PEXPIRE', session .. ':stream', redis.call('PTTL', record))
  end
  local stop = int(at + #data)
  if #tokens > 0 then
    redis.call('HSET', record, 'end', stop, 'last_ms', int(now_ms()), 'token_count', int(first_token + #tokens / 8))
  else
    redis.call('HSET', record, 'end', stop, 'last_ms', int(now_ms()))
  end
  return { 'appended', stop, int(math.max(count, first_token + #tokens / 8)) }
end
