// What a record of the stream says, as typed events. Pure.
// Unknown comments and unknown keys are ignored: a newer node may say more than this reader understands.

import type { StreamRecord } from './splitter.ts';

/** How a session ended; `client` and `replaced` are reasons of `stopped`, and so on. */
export interface End {
  readonly state: 'completed' | 'stopped' | 'failed' | 'lost';
  readonly reason: string | null;
}

/** An error as the API words it. */
export interface Problem {
  /** HTTP status, or the code inside a `data: {"error"}` record; 0 when no answer came. */
  readonly code: number;
  readonly type: string;
  readonly message: string;
}

/** One thing a record told us. */
export type StreamEvent =
  | { readonly type: 'delta'; readonly content: string; readonly reasoning: string }
  | { readonly type: 'meta'; readonly completionId: string; readonly model: string }
  | { readonly type: 'usage'; readonly tokens: number; readonly promptTokens: number }
  | { readonly type: 'timings'; readonly tokens: number; readonly tokensPerSecond: number }
  | { readonly type: 'queued'; readonly position: number | null }
  | { readonly type: 'loading'; readonly percent: number | null }
  | { readonly type: 'problem'; readonly problem: Problem }
  | { readonly type: 'end'; readonly end: End };

const END_STATES = new Set(['completed', 'stopped', 'failed', 'lost']);

type Json = { [key: string]: unknown };

/** Reads one record; a record that says nothing to us yields no events. */
export function eventsOf(record: StreamRecord): StreamEvent[] {
  const events = record.data === null ? [] : dataEvents(record.data);
  for (const comment of record.comments) {
    const event = commentEvent(comment);
    if (event !== null) events.push(event);
  }
  return events;
}

/** Reads an end from a JSON object with `state` and `reason`, or null when it holds none. */
export function endOf(value: unknown): End | null {
  const { state, reason } = asObject(value);
  if (typeof state !== 'string' || !END_STATES.has(state)) return null;
  return { state: state as End['state'], reason: typeof reason === 'string' ? reason : null };
}

function dataEvents(data: string): StreamEvent[] {
  if (data === '[DONE]') return [{ type: 'end', end: { state: 'completed', reason: null } }];
  const chunk = asObject(parsed(data));
  if ('error' in chunk) return [{ type: 'problem', problem: problemOf(chunk['error'], 500) }];
  return chunkEvents(chunk);
}

/** Reads the `error` object of a body or a record; what is missing is filled from the status. */
export function problemOf(error: unknown, status: number): Problem {
  const { code, type, message } = asObject(error);
  return {
    code: typeof code === 'number' ? code : status,
    type: typeof type === 'string' ? type : 'server_error',
    message: typeof message === 'string' ? message : `The server answered ${status}.`,
  };
}

function chunkEvents(chunk: Json): StreamEvent[] {
  const events: StreamEvent[] = [];
  if (typeof chunk['id'] === 'string' && typeof chunk['model'] === 'string') {
    events.push({ type: 'meta', completionId: chunk['id'], model: chunk['model'] });
  }
  const delta = asObject(asObject(firstOf(chunk['choices']))['delta']);
  const content = textOf(delta['content']);
  const reasoning = textOf(delta['reasoning_content']);
  if (content !== '' || reasoning !== '') events.push({ type: 'delta', content, reasoning });
  const timings = asObject(chunk['timings']);
  if ('predicted_n' in timings) {
    const tokensPerSecond = numberOf(timings['predicted_per_second']);
    events.push({ type: 'timings', tokens: numberOf(timings['predicted_n']), tokensPerSecond });
  }
  const usage = asObject(chunk['usage']);
  if ('completion_tokens' in usage) {
    const promptTokens = numberOf(usage['prompt_tokens']);
    events.push({ type: 'usage', tokens: numberOf(usage['completion_tokens']), promptTokens });
  }
  return events;
}

function commentEvent(comment: string): StreamEvent | null {
  const [word = '', ...rest] = comment.split(' ');
  const value = rest.join(' ');
  if (word === 'queued') return { type: 'queued', position: wholeNumber(value) };
  if (word === 'loading') return { type: 'loading', percent: wholeNumber(value) };
  const end = word === 'end' ? endOf(parsed(value)) : null;
  return end === null ? null : { type: 'end', end };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function asObject(value: unknown): Json {
  return typeof value === 'object' && value !== null ? (value as Json) : {};
}

function firstOf(value: unknown): unknown {
  return Array.isArray(value) ? value[0] : undefined;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function numberOf(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}

function wholeNumber(text: string): number | null {
  return /^\d+/.test(text) ? parseInt(text, 10) : null;
}
