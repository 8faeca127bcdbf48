// The calls of the API, typed. Every URL is relative to the page's base, so any mount path works.
// Must not know: what is done with an answer, the DOM.

import { problemOf, type Position, type Problem } from './resume/index.ts';

/** One message of a request. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** What `GET props` tells about the cluster; keys we do not know are left out. */
export interface Props {
  readonly node: string;
  readonly workers: number;
  /** Seconds of silence after which the log gets a ping, or null when it gets none. */
  readonly ping_s: number | null;
  readonly retention_s: number | null;
}

/** A model the cluster offers. */
export interface Model {
  readonly id: string;
  readonly status: string;
}

/** One session as lookup reports it. */
export interface SessionInfo {
  readonly conversation_id: string;
  readonly is_done: boolean;
  readonly total_bytes: number;
  readonly started_at: number;
  readonly state: string;
  readonly reason: string | null;
  readonly epoch: number;
}

/** An answer that is not a success, with the words of the API. */
export class ApiError extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.message);
    this.problem = problem;
  }
}

/** Seconds between the pings that a streaming request asks for. */
const PING_S = 1;

/** The API of one cluster. A rejected promise is an `ApiError`, or a network failure as `fetch` words it. */
export class Api {
  readonly #base: string;
  readonly #key: () => string;

  /**
   * @param base absolute address that paths are relative to
   * @param key the API key at the time of a call; empty when there is none
   */
  constructor(base: string, key: () => string) {
    this.#base = base;
    this.#key = key;
  }

  async props(): Promise<Props> {
    const body = await this.#json('props');
    const { interval_s } = (body['ping'] ?? {}) as { interval_s?: unknown };
    return {
      node: typeof body['node'] === 'string' ? body['node'] : '',
      workers: typeof body['workers'] === 'number' ? body['workers'] : 0,
      ping_s: typeof interval_s === 'number' && interval_s > 0 ? interval_s : null,
      retention_s: typeof body['retention_s'] === 'number' ? body['retention_s'] : null,
    };
  }

  async models(): Promise<Model[]> {
    const { data } = (await this.#json('v1/models')) as { data?: unknown };
    if (!Array.isArray(data)) return [];
    return data.map((entry: { id: string; status?: { value?: string } }) => ({
      id: entry.id,
      status: entry.status?.value ?? 'loaded',
    }));
  }

  /** Opens a session; the response is the caller's to judge. */
  start(
    stream: string,
    model: string | null,
    messages: readonly ChatMessage[],
    signal: AbortSignal,
  ): Promise<Response> {
    return this.#fetch('v1/chat/completions', {
      method: 'POST',
      signal,
      headers: { 'Content-Type': 'application/json', 'X-Conversation-Id': headerBytes(stream) },
      body: JSON.stringify({
        ...(model === null ? {} : { model }),
        messages,
        stream: true,
        stream_options: { include_usage: true },
        sse_ping_interval: PING_S,
        timings_per_token: true,
      }),
    });
  }

  /** Reads a session from a byte on; the response is the caller's to judge. */
  resume(stream: string, { epoch, offset }: Position, signal: AbortSignal): Promise<Response> {
    const query = new URLSearchParams({ conv_id: stream, from: String(offset) });
    if (epoch !== null) query.set('epoch', String(epoch));
    return this.#fetch(`v1/stream?${query}`, { signal });
  }

  /** What the server knows of sessions that this browser owns; others are never told. */
  async lookup(streams: readonly string[], signal?: AbortSignal): Promise<SessionInfo[]> {
    const body: unknown = await this.#json('v1/streams/lookup', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ conversation_ids: streams }),
      ...(signal === undefined ? {} : { signal }),
    });
    return Array.isArray(body) ? (body as SessionInfo[]) : [];
  }

  /**
   * Ends a session.
   *
   * @param keep whether what was said stays readable; otherwise it is erased
   */
  async stop(stream: string, epoch: number | null, keep: boolean): Promise<void> {
    const query = new URLSearchParams({ conv_id: stream });
    if (epoch !== null) query.set('epoch', String(epoch));
    if (keep) query.set('keep', 'true');
    // It must reach the server even when the page is closed right after the click.
    const response = await this.#fetch(`v1/stream?${query}`, { method: 'DELETE', keepalive: true });
    if (response.status >= 500 || response.status === 401) throw await errorOf(response);
  }

  async #json(path: string, init: RequestInit = {}): Promise<{ [key: string]: unknown }> {
    const response = await this.#fetch(path, init);
    if (!response.ok) throw await errorOf(response);
    return (await response.json()) as { [key: string]: unknown };
  }

  #fetch(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    const key = this.#key();
    if (key !== '') headers.set('Authorization', `Bearer ${key}`);
    return fetch(new URL(path, this.#base), { ...init, headers, cache: 'no-store' });
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const body: unknown = await response.json().catch(() => null);
  const error = (body as { error?: unknown } | null)?.error;
  return new ApiError(problemOf(error, response.status));
}

/** `fetch` takes header values as Latin-1; the server reads their bytes as UTF-8. */
function headerBytes(value: string): string {
  return String.fromCharCode(...new TextEncoder().encode(value));
}
