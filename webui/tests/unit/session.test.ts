import { afterEach, beforeEach, expect, test } from 'vitest';
import { MockNode, renderReply } from '../mock/node.mjs';
import { MIXED } from '../mock/scripts.mjs';
import { ManualClock, ManualWake, play, stage, until } from './stage.ts';

const BODY_BYTES = renderReply(MIXED).reduce((sum, entry) => sum + entry.length, 0);

let node: MockNode;
let base: string;

beforeEach(async () => {
  node = new MockNode({ reply: MIXED });
  base = await node.listen();
});

afterEach(() => node.close());

test('a session that nothing disturbs ends completed with the whole text', async () => {
  const { session, record, end } = await play({ base });
  expect(end).toEqual({ state: 'completed', reason: null });
  expect(record.text).toBe(MIXED);
  expect(session.position).toEqual({ epoch: 1, offset: BODY_BYTES });
  expect(record.resumed).toEqual([]);
});

test.each(['reset', 'close'] as const)(
  'no token is lost or doubled when the socket ends by %s at any byte',
  async (how) => {
    for (let at = 0; at < BODY_BYTES; at++) {
      node.cuts = [{ at, how }];
      const { record, session, end } = await play({ base, stream: `c${at}::qwen3-8b` });
      expect({ at, end: end?.state, text: record.text, offset: session.position.offset }).toEqual({
        at,
        end: 'completed',
        text: MIXED,
        offset: BODY_BYTES,
      });
    }
  },
);

test('a body that is cut again and again is put together from its pieces', async () => {
  node.cuts = Array.from({ length: 40 }, (_, i) => ({
    at: Math.ceil(((i + 1) * BODY_BYTES) / 41),
    how: i % 2 === 0 ? 'reset' : 'close',
  }));
  const { record, end } = await play({ base });
  expect(end?.state).toBe('completed');
  expect(record.text).toBe(MIXED);
});

test('every resume asks for the bytes of whole records only, with the epoch', async () => {
  const entries = renderReply(MIXED);
  const whole = entries[0]!.length + entries[1]!.length;
  node.cuts = [{ at: whole + 5, how: 'reset' }];
  await play({ base, stream: 'c' });
  const gets = node.requests.filter((request) => request.startsWith('GET'));
  expect(gets.length).toBeGreaterThan(0);
  const [, from, epoch] = /from=(\d+)&epoch=(\d+)/.exec(gets[0]!) ?? [];
  // A reset may discard bytes already on the way, never add any.
  expect([0, entries[0]!.length, whole]).toContain(Number(from));
  expect(epoch).toBe('1');
});

test('a reader that comes back with a stored position gets the rest only', async () => {
  await play({ base });
  const entries = renderReply(MIXED);
  const offset = entries.slice(0, 4).reduce((sum, entry) => sum + entry.length, 0);
  const { record, end } = await play({ base, position: { epoch: 1, offset } });
  expect(end?.state).toBe('completed');
  expect(MIXED.endsWith(record.text)).toBe(true);
  expect(record.text).not.toBe(MIXED);
  expect(record.replayedText).toBe(record.text);
  expect(record.resumed.map((resumed) => resumed.cause)).toEqual(['reload']);
});

test('bytes of the next session never reach a reader of the one before', async () => {
  await play({ base });
  await play({ base });
  const { record, end } = await play({ base, position: { epoch: 1, offset: 0 } });
  expect(end).toEqual({ state: 'stopped', reason: 'replaced' });
  expect(record.text).toBe('');
});

test('an offset beyond the end starts over from zero', async () => {
  await play({ base });
  const { record, end } = await play({ base, position: { epoch: 1, offset: BODY_BYTES + 1 } });
  expect(record.restarts).toBe(1);
  expect(record.text).toBe(MIXED);
  expect(end?.state).toBe('completed');
});

test('a session that is no longer kept ends as expired', async () => {
  const { end } = await play({ base, position: { epoch: 7, offset: 3 } });
  expect(end).toEqual({ state: 'lost', reason: null });
});

test('a start whose answer was lost is found again, not sent twice', async () => {
  node.cuts = [{ at: 0, how: 'reset' }];
  const { record } = await play({ base });
  expect(record.text).toBe(MIXED);
  expect(node.epochs).toBe(1);
});

test('a reloaded page never starts a session that was not accepted', async () => {
  const { end } = await play({ base, position: { epoch: null, offset: 0 } });
  expect(end).toEqual({ state: 'lost', reason: 'unsent' });
  expect(node.epochs).toBe(0);
});

test('a stop elsewhere ends the reader with its reason', async () => {
  node.entry_ms = 20;
  const { session, record } = stage({ base });
  const ended = session.run();
  await until(() => record.text !== '');
  node.sessions.values().next().value.end('stopped', 'client');
  expect(await ended).toEqual({ state: 'stopped', reason: 'client' });
});

test('closing is not a drop: nothing is asked again', async () => {
  node.entry_ms = 20;
  const { session, record } = stage({ base });
  const ended = session.run();
  await until(() => record.text !== '');
  session.close();
  expect(await ended).toBeNull();
  expect(node.requests).toEqual(['POST /v1/chat/completions']);
  expect(session.state).toBe('ended');
});

test('an error inside the stream ends it as failed', async () => {
  const body = 'data: {"error":{"code":500,"message":"out of memory","type":"server_error"}}\n\n';
  const { session, end } = await play({ base: await plainServer(body) });
  expect(end).toEqual({ state: 'failed', reason: 'engine' });
  expect(session.problem?.message).toBe('out of memory');
});

test('a refused request ends with the words of the API', async () => {
  const error = { code: 400, type: 'invalid_request_error', message: 'temperature must be >= 0' };
  node.refusals = [{ status: 400, body: { error } }];
  const { session, end } = await play({ base });
  expect(end).toEqual({ state: 'failed', reason: 'refused' });
  expect(session.problem).toEqual(error);
});

test('a node that is loading is asked again when it said', async () => {
  const clock = new ManualClock();
  node.refusals = [{ status: 503, headers: { 'Retry-After': '2' } }];
  const { session, record } = stage({ base, clock });
  const ended = session.run();
  await until(() => record.states.includes('loading'));
  await until(() => clock.armed_ms.includes(2_000));
  clock.advance(2_000);
  expect((await ended)?.state).toBe('completed');
});

test('a wrong key waits for another one and then goes on', async () => {
  let key = 'wrong';
  node.key = 'right';
  const { session, record } = stage({ base, key: () => key });
  const ended = session.run();
  await until(() => record.locked === 1);
  key = 'right';
  session.nudge();
  expect((await ended)?.state).toBe('completed');
  expect(record.text).toBe(MIXED);
});

test('attempts are spaced 0, 0.25, 0.5, 1, 2, 4, 5, 5 s less jitter while the network is away', async () => {
  const clock = new ManualClock();
  clock.random = () => 0; // the shortest spread, which tells these waits from the watchdog's 500 ms
  node.entry_ms = 5;
  node.cuts = [{ at: 900, how: 'reset' }];
  const { session, record } = stage({ base, clock });
  const ended = session.run();
  await until(() => record.text !== '');
  node.refusals = Array.from({ length: 7 }, () => ({ status: 502 }));
  for (const delay_ms of [200, 400, 800, 1600, 3200, 4000, 4000]) {
    await until(() => clock.armed_ms.includes(delay_ms));
    clock.advance(delay_ms - 1);
    expect(clock.armed_ms).toContain(1);
    clock.advance(1);
  }
  expect((await ended)?.state).toBe('completed');
  expect(record.text).toBe(MIXED);
  expect(record.states).toContain('waiting');
});

test('a hidden tab waits, and goes on at once when it is looked at', async () => {
  const wake = new ManualWake();
  node.entry_ms = 5;
  node.cuts = [{ at: 900, how: 'close' }];
  const { session, record } = stage({ base, wake });
  const ended = session.run();
  await until(() => record.text !== '');
  wake.isAwake = false;
  await until(() => record.states.at(-1) === 'reconnecting');
  expect(node.requests).toHaveLength(1);
  wake.wake();
  expect((await ended)?.state).toBe('completed');
  expect(record.text).toBe(MIXED);
});

test('returning twenty times makes one request', async () => {
  const wake = new ManualWake();
  node.entry_ms = 5;
  node.cuts = [{ at: 900, how: 'close' }];
  const { session, record } = stage({ base, wake });
  const ended = session.run();
  await until(() => record.text !== '');
  wake.isAwake = false;
  await until(() => record.states.at(-1) === 'reconnecting');
  for (let i = 0; i < 20; i++) wake.wake();
  await ended;
  expect(node.requests.filter((request) => request.startsWith('GET'))).toHaveLength(1);
});

test.each([
  ['10 s of silence break a connection that promised pings', 1, 10_500, true],
  ['without promised pings silence breaks nothing', null, 60_000, false],
  ['a slow ping stretches the patience', 15, 40_000, false],
])('%s', async (_name, ping_s, silence_ms, breaks) => {
  const clock = new ManualClock();
  node.entry_ms = 60_000;
  const { session, record } = stage({ base, clock, ping_s });
  const ended = session.run();
  await until(() => record.states.includes('live'));
  clock.advance(silence_ms);
  if (breaks) {
    await until(() => node.requests.some((request) => request.startsWith('GET')));
    expect(record.states).toContain('reconnecting');
  } else {
    expect(record.states).not.toContain('reconnecting');
  }
  session.close();
  await ended;
});

test('3 s of silence are enough on return to the tab', async () => {
  const clock = new ManualClock();
  const wake = new ManualWake();
  node.entry_ms = 60_000;
  const { session, record } = stage({ base, clock, wake, ping_s: 1 });
  const ended = session.run();
  await until(() => record.states.includes('live'));
  wake.isAwake = false;
  clock.advance(2_900);
  wake.wake();
  expect(node.requests).toHaveLength(1);
  clock.advance(200);
  wake.wake();
  await until(() => node.requests.some((request) => request.startsWith('GET')));
  session.close();
  await ended;
});

/** A server that answers everything with one SSE body. */
async function plainServer(body: string): Promise<string> {
  const { createServer } = await import('node:http');
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', Connection: 'close' });
    response.end(body, () => server.close());
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
}
