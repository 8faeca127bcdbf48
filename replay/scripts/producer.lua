-- What append.lua and close.lua share; stands between common.lua and those two.

-- Whether this producer may not write: its answer, else nil and the log's end.
local function refusal(record, attempt, nonce)
  if redis.call('EXISTS', record) == 0 then return { 'gone' } end
  local is = fields(record, 'attempt', 'nonce', 'state', 'reason', 'end')
  if final(is.state) then return { 'ended', is.state, is.reason } end
  if is.attempt ~= attempt or is.nonce ~= nonce then return { 'fenced' } end
  return nil, number(is['end'])
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
    redis.call('HSET', record, 'token_count', int(first_token + #tokens / 8))
  end
  if at == 0 and #data > 0 then
    redis.call('PEXPIRE', session .. ':stream', redis.call('PTTL', record))
  end
  redis.call('HSET', record, 'end', int(at + #data), 'last_ms', int(now_ms()))
  return { 'appended', int(at + #data) }
end
