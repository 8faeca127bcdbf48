// A small API node that speaks the wire of replay-cluster, for tests and for looking at the page.
// Sessions are scripted and live in memory; sockets can be cut at any byte of the body.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';

const MODEL = 'qwen3-8b';
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; " +
  "connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'none'";
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
  '.json': 'application/json',
};

/**
 * @typedef {object} Cut
 * @property {number} at body byte at which the connection ends
 * @property {'reset' | 'close'} how a TCP reset, or an early end that looks clean
 */

/** One scripted session: the bytes of its log and how far they have been written. */
class ScriptedSession {
  /** @param {string} id @param {number} epoch @param {Buffer[]} entries */
  constructor(id, epoch, entries) {
    this.id = id;
    this.epoch = epoch;
    this.entries = entries;
    this.log = Buffer.alloc(0);
    this.state = 'running';
    this.reason = null;
    this.started_at = Math.floor(Date.now() / 1000);
    this.waiters = new Set();
  }

  append(bytes) {
    this.log = Buffer.concat([this.log, bytes]);
    this.wake();
  }

  end(state, reason = null) {
    if (this.state !== 'running') return;
    if (state !== 'completed') {
      this.append(Buffer.from(`: end ${JSON.stringify({ state, reason })}\n\n`));
    }
    this.state = state;
    this.reason = reason;
    this.wake();
  }

  wake() {
    for (const waiter of this.waiters) waiter();
    this.waiters.clear();
  }

  changed() {
    return new Promise((settle) => this.waiters.add(settle));
  }
}

/** Renders a reply as the entries of a log, one a token. */
export function renderReply(text, { model = MODEL, reasoning = '' } = {}) {
  const head = { created: 1, id: 'chatcmpl-mock', model, object: 'chat.completion.chunk' };
  const entry = (delta, finish_reason = null, extra = {}) =>
    data({ choices: [{ finish_reason, index: 0, delta }], ...head, ...extra });
  const pieces = tokensOf(text);
  const timings = (n) => ({ predicted_n: n, predicted_ms: n * 24, predicted_per_second: 41.8 });
  return [
    entry({ role: 'assistant', content: null }),
    ...tokensOf(reasoning).map((piece) => entry({ reasoning_content: piece })),
    ...pieces.map((piece, i) => entry({ content: piece }, null, { timings: timings(i + 1) })),
    entry({}, 'stop'),
    data({
      choices: [],
      ...head,
      usage: { completion_tokens: pieces.length, prompt_tokens: 12, total_tokens: 0 },
      timings: timings(pieces.length),
    }),
    Buffer.from('data: [DONE]\n\n'),
  ];
}

const data = (value) => Buffer.from(`data: ${JSON.stringify(value)}\n\n`);

const tokensOf = (text) => text.match(/\s?\S+|\s+/gu) ?? [];

/** The node. Settings may be changed while it runs; they take effect with the next request. */
export class MockNode {
  constructor(settings = {}) {
    this.reply = 'Hello.';
    this.reasoning = '';
    this.entry_ms = 0;
    this.node = 'api-2';
    this.workers = 3;
    this.key = null;
    this.dist = null;
    /** @type {Cut[]} taken one by one by connections that carry a stream */
    this.cuts = [];
    /** Answers given instead of the next ones: {status, headers, body}. */
    this.refusals = [];
    this.sessions = new Map();
    this.requests = [];
    this.epochs = 0;
    Object.assign(this, settings);
    this.server = createServer((request, response) => {
      this.answer(request, response).catch(() => response.destroy());
    });
    this.server.keepAliveTimeout = 0;
  }

  async listen(port = 0) {
    await new Promise((settle) => this.server.listen(port, '127.0.0.1', settle));
    return `http://127.0.0.1:${this.server.address().port}/`;
  }

  async close() {
    this.server.closeAllConnections();
    await new Promise((settle) => this.server.close(settle));
  }

  async answer(request, response) {
    const url = new URL(request.url, 'http://node');
    const route = `${request.method} ${url.pathname}`;
    this.requests.push(`${route}${url.search}`);
    if (!url.pathname.startsWith('/v1/') && url.pathname !== '/props') {
      return this.page(url.pathname, response);
    }
    if (this.key !== null && request.headers.authorization !== `Bearer ${this.key}`) {
      return fail(response, 401, 'authentication_error', 'Invalid API Key');
    }
    const refusal = route.includes('/v1/chat') || route.startsWith('GET /v1/stream');
    if (refusal && this.refusals.length > 0) return refuse(response, this.refusals.shift());
    switch (route) {
      case 'POST /v1/chat/completions':
        return this.start(request, response);
      case 'GET /v1/stream':
        return this.resume(url.searchParams, response);
      case 'DELETE /v1/stream':
        return this.stop(url.searchParams, response);
      case 'POST /v1/streams/lookup':
        return this.lookup(await bodyOf(request), response);
      case 'GET /props':
        return json(response, 200, this.props());
      case 'GET /v1/models':
        return json(response, 200, {
          data: [{ id: MODEL, status: { value: 'loaded' }, meta: { n_ctx: 8192 } }],
        });
      default:
        return fail(response, 404, 'not_found_error', 'File Not Found');
    }
  }

  props() {
    return {
      role: 'router',
      build_info: 'mock',
      node: this.node,
      workers: this.workers,
      ui_settings: {},
      features: {},
      ping: { interval_s: 1 },
      retention_s: 3600,
    };
  }

  async start(request, response) {
    const { model = MODEL } = await bodyOf(request);
    const header = String(request.headers['x-conversation-id']);
    const id = Buffer.from(header, 'latin1').toString('utf8');
    this.sessions.get(id)?.end('stopped', 'replaced');
    const entries = renderReply(this.reply, { model, reasoning: this.reasoning });
    const session = new ScriptedSession(id, ++this.epochs, entries);
    this.sessions.set(id, session);
    void this.generate(session);
    return this.send(session, 0, response, false);
  }

  /** Writes the script into the log: all at once, or an entry every `entry_ms` with pings between. */
  async generate(session) {
    for (const entry of session.entries) {
      if (session.state !== 'running') return;
      session.append(entry);
      if (this.entry_ms > 0) await new Promise((settle) => setTimeout(settle, this.entry_ms));
    }
    session.end('completed');
  }

  async resume(query, response) {
    const session = this.sessions.get(query.get('conv_id'));
    if (session === undefined) {
      return fail(response, 404, 'not_found_error', 'no such stream', { state: 'lost' });
    }
    if (query.get('epoch') !== null && Number(query.get('epoch')) !== session.epoch) {
      return fail(response, 409, 'invalid_request_error', 'another epoch');
    }
    const from = Number(query.get('from') ?? 0);
    if (from > session.log.length) {
      const size = session.log.length;
      return fail(response, 416, 'invalid_request_error', 'beyond the end', { size });
    }
    return this.send(session, from, response, true);
  }

  async send(session, from, response, resumed) {
    const cut = this.cuts.shift() ?? null;
    // A clean early end needs a body delimited by the close of the connection.
    if (cut?.how === 'close') response.useChunkedEncodingByDefault = false;
    response.writeHead(200, {
      'Content-Type': 'text/event-stream',
      'Cache-Control': 'no-store, no-transform',
      'X-Stream-Epoch': String(session.epoch),
      'X-Stream-Offset': String(from),
      'X-Stream-State': session.state,
      ...(resumed ? { 'X-Stream-Size': String(session.log.length) } : {}),
      'X-Completion-Id': 'chatcmpl-mock',
      ...(cut?.how === 'close' ? { Connection: 'close' } : {}),
    });
    response.flushHeaders();
    const limit = cut?.at ?? Infinity;
    for (let at = from; ;) {
      const until = Math.min(session.log.length, limit);
      if (until > at) response.write(session.log.subarray(at, until));
      at = Math.max(at, until);
      if (at >= limit) return hangUp(response, cut.how);
      if (session.state !== 'running' && at >= session.log.length) return response.end();
      if (at < session.log.length) continue;
      await session.changed();
      if (response.destroyed) return;
    }
  }

  async stop(query, response) {
    const session = this.sessions.get(query.get('conv_id'));
    const epoch = query.get('epoch');
    if (session !== undefined && (epoch === null || Number(epoch) === session.epoch)) {
      session.end('stopped', 'client');
      if (query.get('keep') !== 'true') this.sessions.delete(session.id);
    }
    response.writeHead(204).end();
  }

  async lookup({ conversation_ids = [] }, response) {
    const wanted = (id) => conversation_ids.some((w) => id === w || id.startsWith(`${w}::`));
    const found = [...this.sessions.values()].filter((session) => wanted(session.id));
    return json(
      response,
      200,
      found.map((session) => ({
        conversation_id: session.id,
        is_done: session.state !== 'running',
        total_bytes: session.log.length,
        started_at: session.started_at,
        completed_at: 0,
        state: session.state,
        reason: session.reason,
        epoch: session.epoch,
        model: MODEL,
        queue_position: null,
      })),
    );
  }

  async page(path, response) {
    if (this.dist === null) return fail(response, 404, 'not_found_error', 'File Not Found');
    const name = path === '/' ? 'index.html' : normalize(path).slice(1);
    const bytes = await readFile(join(this.dist, name)).catch(() => null);
    if (bytes === null) return fail(response, 404, 'not_found_error', 'File Not Found');
    response.writeHead(200, {
      'Content-Type': TYPES[extname(name)] ?? 'application/octet-stream',
      'Content-Security-Policy': POLICY,
    });
    response.end(bytes);
  }
}

function hangUp(response, how) {
  if (how === 'close') return response.end();
  // Let the bytes before the cut leave first: a reset discards what the peer has not read.
  return response.write('', () => setImmediate(() => response.socket?.resetAndDestroy()));
}

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString('utf8'));
}

function json(response, status, body, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8', ...headers });
  response.end(JSON.stringify(body));
}

function fail(response, code, type, message, extra = {}) {
  json(response, code, { error: { code, type, message, ...extra } });
}

function refuse(response, { status, headers = {}, body = {} }) {
  json(response, status, body, headers);
}
