// Follows one session from the first byte to its end, over as many connections as that takes.
// The offset lives here, in memory, and counts whole records only; storage is told about it and never asked.
// Must not know: the DOM, storage, how a message is drawn, what the URLs are.

import { reconnectDelay, retryAfter } from './backoff.ts';
import { endOf, eventsOf, problemOf, type End, type Problem, type StreamEvent } from './events.ts';
import { RecordSplitter, type StreamRecord } from './splitter.ts';

/** Silence that makes a visible reader reconnect, when pings were promised. */
const STALL_MS = 10_000;
/** The same on return to the tab: a phone that slept has sockets that look alive and are not. */
const STALL_ON_WAKE_MS = 3_000;
/** A slower ping stretches both limits: fewer than three missed pings prove nothing. */
const MISSED_PINGS = 3;
const STALL_CHECK_MS = 500;
/** Where the node does not tell the size of the log: a read that waited this long was not served from it. */
const REPLAY_GAP_MS = 15;
/** Attempts to start while the cluster answers that it cannot; after that the person decides. */
const STARTS_MAX = 5;

/** What the session is doing, as a person would be told. */
export type SessionState =
  'starting' | 'queued' | 'loading' | 'live' | 'reconnecting' | 'waiting' | 'ended';

/** Where a reader stands: which session of the conversation, and how many of its bytes are parsed. */
export interface Position {
  /** Null until a node has accepted the request. */
  readonly epoch: number | null;
  readonly offset: number;
}

/** The three calls a session needs. Each may reject with anything: a rejection is a lost connection. */
export interface Transport {
  /** Opens the session; null where it must not be opened again (a page that was reloaded). */
  readonly start: ((signal: AbortSignal) => Promise<Response>) | null;
  /** Reads from a position on. */
  resume(position: Position, signal: AbortSignal): Promise<Response>;
  /** The epoch of the session that the lost start opened, or null when it opened none. */
  find(signal: AbortSignal): Promise<number | null>;
}

/** Time and chance, so that tests own both. */
export interface Clock {
  now(): number;
  /** Calls back once after `delay_ms`; returns what takes that back. */
  after(delay_ms: number, callback: () => void): () => void;
  random(): number;
}

/** Whether it is worth trying, and when it has become so again. */
export interface Wake {
  awake(): boolean;
  subscribe(onWake: () => void): () => void;
}

/** A gap that was closed. */
export interface Resumed {
  readonly cause: 'drop' | 'stall' | 'reload';
  readonly gap_ms: number;
  readonly offset: number;
}

/** Receives what the session learns, synchronously: after each call text and `position` agree. */
export interface Sink {
  onState(state: SessionState): void;
  onEvent(event: StreamEvent, replayed: boolean): void;
  onResumed(resumed: Resumed): void;
  /** The log restarted below our offset; everything received is void and comes again. */
  onRestart(): void;
  /** The key was refused; the session rests until `nudge`. */
  onLocked(): void;
}

/** What a session is made of. */
export interface SessionOptions {
  readonly transport: Transport;
  readonly sink: Sink;
  readonly wake: Wake;
  readonly clock: Clock;
  /** Where a stored reply stands; absent for a new one. */
  readonly position?: Position;
  /** When the stored position was saved, on the clock's scale. */
  readonly heardAt_ms?: number;
  /** The promised ping interval in seconds, or null when none was promised. */
  readonly ping_s: () => number | null;
}

type Outcome =
  | { readonly kind: 'ended'; readonly end: End; readonly problem: Problem | null }
  | { readonly kind: 'dropped'; readonly progressed: boolean }
  | { readonly kind: 'later'; readonly delay_ms: number | null }
  | { readonly kind: 'locked' };

/** The connection failed, in whatever words this browser has for it. */
class Dropped extends Error {}

const END_EXPIRED: End = { state: 'lost', reason: 'expired' };
const END_REPLACED: End = { state: 'stopped', reason: 'replaced' };
const END_UNSENT: End = { state: 'lost', reason: 'unsent' };
const END_REFUSED: End = { state: 'failed', reason: 'refused' };

/** One reader of one session. Call `run` once. */
export class Session {
  readonly #transport: Transport;
  readonly #sink: Sink;
  readonly #wake: Wake;
  readonly #clock: Clock;
  readonly #ping_s: () => number | null;
  #epoch: number | null;
  #offset: number;
  #accepted: boolean;
  #starts = 0;
  #state: SessionState = 'starting';
  /** What the session itself last said it is doing, to return to after a gap. */
  #phase: SessionState = 'starting';
  #closed = false;
  #socket = new AbortController();
  /** When the last record of an unbroken connection came; the start of a gap. */
  #heardAt_ms: number;
  /** When this connection last said anything; null while none is watched. */
  #quietSince_ms: number | null = null;
  #cause: Resumed['cause'] | null;
  #problem: Problem | null = null;
  #interruptRest: (() => void) | null = null;
  #markAccepted: () => void = () => {};
  /** Settles when a node has accepted the request, or when none will: from then on closing loses nothing. */
  readonly accepted: Promise<void>;

  constructor(options: SessionOptions) {
    this.#transport = options.transport;
    this.#sink = options.sink;
    this.#wake = options.wake;
    this.#clock = options.clock;
    this.#ping_s = options.ping_s;
    this.#epoch = options.position?.epoch ?? null;
    this.#offset = options.position?.offset ?? 0;
    this.#accepted = this.#epoch !== null;
    this.#heardAt_ms = options.heardAt_ms ?? options.clock.now();
    this.#cause = options.position === undefined ? null : 'reload';
    this.accepted = new Promise((settle) => (this.#markAccepted = settle));
    if (this.#accepted) this.#markAccepted();
  }

  /** Bytes of fully parsed records, and the session they belong to. */
  get position(): Position {
    return { epoch: this.#epoch, offset: this.#offset };
  }

  get state(): SessionState {
    return this.#state;
  }

  /** What went wrong, once it ended as failed. */
  get problem(): Problem | null {
    return this.#problem;
  }

  /** Follows the session to its end. Returns null when `close` came first. */
  async run(): Promise<End | null> {
    const unsubscribe = this.#wake.subscribe(() => this.#onWake());
    try {
      return await this.#follow();
    } finally {
      unsubscribe();
      this.#markAccepted();
      this.#enter('ended');
    }
  }

  /** Closes the connection for good. An intended close is never taken for a drop. */
  close(): void {
    this.#closed = true;
    this.#socket.abort();
    this.#interruptRest?.();
  }

  /** Tries again at once, e.g. with a new key. */
  nudge(): void {
    this.#interruptRest?.();
  }

  async #follow(): Promise<End | null> {
    let failures = 0;
    while (!this.#closed) {
      const outcome = await this.#attempt();
      if (this.#closed) break;
      if (outcome.kind === 'ended') {
        this.#problem = outcome.problem ?? this.#problem;
        return outcome.end;
      }
      failures = outcome.kind === 'dropped' && outcome.progressed ? 0 : failures + 1;
      await this.#rest(outcome, failures);
    }
    return null;
  }

  async #attempt(): Promise<Outcome> {
    this.#socket = new AbortController();
    const before = this.#offset;
    try {
      const opened = await this.#open(this.#socket.signal);
      return opened instanceof Response ? await this.#read(opened) : opened;
    } catch (error) {
      if (!(error instanceof Dropped)) throw error;
      this.#cause ??= 'drop';
      return { kind: 'dropped', progressed: this.#offset > before };
    }
  }

  async #open(signal: AbortSignal): Promise<Response | Outcome> {
    if (!this.#accepted && (this.#starts > 0 || this.#transport.start === null)) {
      // A start whose answer was lost may have opened the session: look before asking twice.
      const epoch = await network(this.#transport.find(signal));
      if (epoch !== null) this.#accept(epoch);
    }
    if (this.#accepted) return this.#resume(signal);
    if (this.#transport.start === null) return ended(END_UNSENT);
    this.#starts += 1;
    const response = await network(this.#transport.start(signal));
    const refusal = await this.#judgeStart(response);
    if (refusal !== null) return refusal;
    this.#accept(numberHeader(response, 'X-Stream-Epoch'));
    return response;
  }

  async #resume(signal: AbortSignal): Promise<Response | Outcome> {
    const quiet = this.#watchSilence();
    try {
      const response = await network(this.#transport.resume(this.position, signal));
      const refusal = await this.#judgeResume(response);
      if (refusal !== null) return refusal;
      const epoch = numberHeader(response, 'X-Stream-Epoch');
      if (this.#epoch !== null && epoch !== null && epoch !== this.#epoch) {
        this.#socket.abort();
        return ended(END_REPLACED);
      }
      return response;
    } finally {
      quiet();
    }
  }

  #accept(epoch: number | null): void {
    this.#accepted = true;
    this.#epoch = epoch;
    this.#markAccepted();
  }

  async #judgeStart(response: Response): Promise<Outcome | null> {
    if (isStream(response)) return null;
    const problem = problemOf((await bodyOf(response))['error'], response.status);
    if (response.status === 401) return { kind: 'locked' };
    const passing = [429, 502, 503, 504].includes(response.status);
    if (passing && this.#starts < STARTS_MAX) return later(response);
    return { kind: 'ended', end: END_REFUSED, problem };
  }

  async #judgeResume(response: Response): Promise<Outcome | null> {
    if (isStream(response)) return null;
    const { error } = await bodyOf(response);
    switch (response.status) {
      case 401:
        return { kind: 'locked' };
      case 404:
      case 410:
        return ended(endOf(error) ?? END_EXPIRED);
      case 409:
        return ended(END_REPLACED);
      case 416:
        return this.#restart();
      default:
        if (response.status >= 500 || response.status === 429) return later(response);
        return { kind: 'ended', end: END_REFUSED, problem: problemOf(error, response.status) };
    }
  }

  #restart(): Outcome {
    const progressed = this.#offset > 0;
    this.#offset = 0;
    this.#sink.onRestart();
    return { kind: 'dropped', progressed };
  }

  async #read(response: Response): Promise<Outcome> {
    const reader = response.body?.getReader();
    if (reader === undefined) return { kind: 'dropped', progressed: false };
    const before = this.#offset;
    const splitter = new RecordSplitter();
    const quiet = this.#watchSilence();
    const size = numberHeader(response, 'X-Stream-Size');
    let replaying = this.#cause !== null;
    try {
      for (;;) {
        const asked_ms = this.#clock.now();
        const { done, value } = await network(reader.read());
        if (this.#closed) return { kind: 'dropped', progressed: false };
        if (done) return this.#atBodyEnd(this.#offset > before);
        if (this.#clock.now() - asked_ms >= REPLAY_GAP_MS) replaying = false;
        this.#quietSince_ms = this.#clock.now();
        for (const record of splitter.push(value)) {
          const end = this.#take(record, size === null ? replaying : this.#offset < size);
          if (end !== null) return ended(end);
        }
        if (this.#cause === null) this.#heardAt_ms = this.#clock.now();
      }
    } finally {
      quiet();
      // Closes the socket of a body that we leave before its end; after the end it does nothing.
      reader.cancel().catch(() => {});
    }
  }

  #take(record: StreamRecord, replayed: boolean): End | null {
    this.#reportGap();
    this.#offset += record.bytes;
    for (const event of eventsOf(record)) {
      if (event.type === 'end') return event.end;
      if (event.type === 'queued' || event.type === 'loading') this.#phase = event.type;
      else this.#phase = 'live';
      if (event.type === 'problem') this.#problem = event.problem;
      this.#sink.onEvent(event, replayed);
    }
    this.#enter(this.#phase);
    return null;
  }

  /**
   * The body ended without saying why: a cut connection, however clean it looks. A proxy can end a body
   * early even for a session that is long over, so the state in the headers proves nothing here.
   */
  #atBodyEnd(progressed: boolean): Outcome {
    if (this.#problem !== null) return ended({ state: 'failed', reason: 'engine' });
    this.#cause ??= 'drop';
    return { kind: 'dropped', progressed };
  }

  #reportGap(): void {
    if (this.#cause === null) return;
    const gap_ms = Math.max(0, this.#clock.now() - this.#heardAt_ms);
    this.#sink.onResumed({ cause: this.#cause, gap_ms, offset: this.#offset });
    this.#cause = null;
  }

  async #rest(outcome: Outcome, failures: number): Promise<void> {
    if (outcome.kind === 'locked') {
      this.#enter('waiting');
      const unlocked = this.#interruption();
      this.#sink.onLocked();
      return unlocked;
    }
    const asked_ms = outcome.kind === 'later' ? outcome.delay_ms : null;
    const delay_ms = asked_ms ?? reconnectDelay(failures, this.#clock.random());
    if (outcome.kind === 'later' && this.#phase !== 'live') this.#enter('loading');
    else this.#enter(failures === 0 ? 'reconnecting' : 'waiting');
    if (delay_ms > 0) await this.#pause(delay_ms);
    while (!this.#closed && !this.#wake.awake()) await this.#interruption();
  }

  async #pause(delay_ms: number): Promise<void> {
    const interrupted = this.#interruption();
    const take = this.#clock.after(delay_ms, () => this.#interruptRest?.());
    await interrupted;
    take();
  }

  #interruption(): Promise<void> {
    return new Promise((settle) => {
      this.#interruptRest = () => {
        this.#interruptRest = null;
        settle();
      };
    });
  }

  #onWake(): void {
    this.#breakIfSilent(STALL_ON_WAKE_MS);
    // A refused key rests too, and trying it again on every return costs one request.
    this.#interruptRest?.();
  }

  /** Arms the watchdog for one connection; returns what disarms it. */
  #watchSilence(): () => void {
    this.#quietSince_ms = this.#clock.now();
    let disarm = (): void => {};
    const check = (): void => {
      if (this.#wake.awake()) this.#breakIfSilent(STALL_MS);
      disarm = this.#clock.after(STALL_CHECK_MS, check);
    };
    disarm = this.#clock.after(STALL_CHECK_MS, check);
    return () => {
      disarm();
      this.#quietSince_ms = null;
    };
  }

  /** A wrong watchdog kills healthy connections, so without a promised ping there is none. */
  #breakIfSilent(limit_ms: number): void {
    const ping_s = this.#ping_s();
    if (ping_s === null || this.#quietSince_ms === null) return;
    const patience_ms = Math.max(limit_ms, ping_s * 1_000 * MISSED_PINGS);
    if (this.#clock.now() - this.#quietSince_ms <= patience_ms) return;
    this.#cause ??= 'stall';
    this.#socket.abort();
  }

  #enter(state: SessionState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#sink.onState(state);
  }
}

/** The browser's clock. */
export const SYSTEM_CLOCK: Clock = {
  now: () => Date.now(),
  after(delay_ms, callback) {
    const timer = setTimeout(callback, delay_ms);
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
};

async function network<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (cause) {
    throw new Dropped('connection lost', { cause });
  }
}

function ended(end: End): Outcome {
  return { kind: 'ended', end, problem: null };
}

function later(response: Response): Outcome {
  return { kind: 'later', delay_ms: retryAfter(response.headers.get('Retry-After')) };
}

function isStream(response: Response): boolean {
  const type = response.headers.get('Content-Type') ?? '';
  return response.ok && type.includes('text/event-stream');
}

function numberHeader(response: Response, name: string): number | null {
  const value = response.headers.get(name);
  return value !== null && /^\d+$/.test(value) ? Number(value) : null;
}

async function bodyOf(response: Response): Promise<{ [key: string]: unknown }> {
  try {
    const body: unknown = await response.json();
    return typeof body === 'object' && body !== null ? (body as { [key: string]: unknown }) : {};
  } catch {
    return {};
  }
}
