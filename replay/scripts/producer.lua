-- What append.lua and close.lua share; stands between common.lua and those two.

-- Whether this producer may not write: its answer, else nil and the log's end.
local function refusal(record, attempt, nonce)
  local is = redis.call('HMGET', record, 'attempt', 'nonce', 'state', 'end', 'reason')
  if not is[3] then return { 'gone' } end
  if final(is[3]) then return { 'ended', is[3], is[5] } end
  if is[1] ~= attempt or is[2] ~= nonce then return { 'fenced' } end
  return nil, number(is[4])
end

-- Tokens may come without bytes (half a code point, a held-back stop string), never the reverse order.
local function write(session, at, data, first_token, tokens, window)
  if #data > 0 then
    local failed = add_chunk(session, at, data, window)
    if failed then
      if failed.at then return { 'at', int(failed.at) } end
      return failed
    end
  end
  local record = session .. ':record'
  if #tokens > 0 then
    redis.call('SETRANGE', session .. ':tokens', int(8 * first_token), tokens)
    if first_token == 0 then redis.call('PEXPIRE', session .. ':tokens', redis.call('PTTL', record)) end
  end
  if at == 0 and #data > 0 then
    redis.call('PEXPIRE', session .. ':stream', redis.call('PTTL', record))
  end
  local stop = int(at + #data)
  if #tokens > 0 then
    redis.call('HSET', record, 'end', stop, 'last_ms', int(now_ms()), 'token_count', int(first_token + #tokens / 8))
  else
    redis.call('HSET', record, 'end', stop, 'last_ms', int(now_ms()))
  end
  return { 'appended', stop }
end
