// One reply that is being received by this tab: the session that brings it, the row it fills, and when the row is stored.
// The truth while it runs is the plain message held here; the screen and the database get copies of it.

import type { Message, StreamRow } from '../lib/db.ts';
import type { ChatMessage } from '../lib/api.ts';
import { streamId } from '../lib/ids.ts';
import { painter } from '../lib/paint.ts';
import { extendRail, restoredRail } from '../lib/rail.ts';
import {
  Session,
  SYSTEM_CLOCK,
  type End,
  type Resumed,
  type SessionState,
  type Sink,
  type StreamEvent,
  type Transport,
} from '../lib/resume/index.ts';
import { WriterLock } from '../lib/tabs.ts';
import { connection } from './connection.svelte.ts';
import { context } from './context.ts';
import { conversations } from './conversations.svelte.ts';

const CHECKPOINT_MS = 2_000;

/** One live reply. `run` once; then `stop`, `detach` or let it end. */
export class LiveReply implements Sink {
  state = $state<SessionState>('starting');
  /** When this state was entered. */
  since_ms = $state(Date.now());
  queuePosition = $state<number | null>(null);
  loadPercent = $state<number | null>(null);
  readonly stream: string;
  readonly #message: Message;
  readonly #row: StreamRow;
  readonly #session: Session;
  readonly #lock: WriterLock;
  readonly #paint = painter(() => this.#show());
  #stored = -1;
  /** The node at the other end of the connection, where it said its name. */
  #node: string | null = null;

  /**
   * @param message the row to fill
   * @param row where it stands
   * @param history what to send for it; null when it was sent before and is only followed
   */
  constructor(message: Message, row: StreamRow, history: readonly ChatMessage[] | null) {
    this.stream = streamId(row.conversation, row.model);
    this.#message = message;
    this.#row = row;
    this.#lock = new WriterLock(row.conversation, navigator.locks);
    const followed = history === null;
    if (followed) message.rail = restoredRail(message.rail);
    this.#session = new Session({
      transport: this.#transport(history),
      sink: this,
      wake: context().wake,
      clock: SYSTEM_CLOCK,
      ping_s: () => connection.props?.ping_s ?? null,
      ...(followed ? { position: { epoch: row.epoch, offset: row.offset } } : {}),
      ...(followed ? { heardAt_ms: row.saved_ms } : {}),
    });
  }

  get message(): Message {
    return this.#message;
  }

  get epoch(): number | null {
    return this.#session.position.epoch;
  }

  /** Follows the reply to its end and stores it. Returns null when it was detached or stopped before. */
  async run(): Promise<End | null> {
    const timer = setInterval(() => void this.checkpoint(), CHECKPOINT_MS);
    void this.#session.accepted.then(() => this.checkpoint());
    try {
      const end = await this.#session.run();
      if (end !== null) await this.#finish(end);
      return end;
    } finally {
      clearInterval(timer);
      this.#lock.release();
    }
  }

  /** Stores text and offset together, if this tab is the one that writes and something changed. */
  async checkpoint(): Promise<void> {
    this.#locate();
    if (!this.#lock.owned || this.#message.end !== null) return;
    if (this.#row.offset === this.#stored || this.#row.epoch === null) return;
    this.#stored = this.#row.offset;
    this.#row.saved_ms = Date.now();
    await context().database.checkpoint(this.#message, this.#row);
  }

  /** Closes the connection and leaves the reply running on the server. */
  async detach(): Promise<void> {
    await this.#session.accepted;
    await this.checkpoint();
    this.#session.close();
  }

  /** Closes the connection and keeps what was said so far as the whole reply. */
  async stop(): Promise<void> {
    this.#locate();
    this.#session.close();
    await this.#finish({ state: 'stopped', reason: 'client' });
  }

  onState(state: SessionState): void {
    const wasBroken = isBroken(this.state);
    this.state = state;
    this.since_ms = Date.now();
    // Another node may answer now, and the foot of the list names the one that does.
    if (wasBroken !== isBroken(state)) void connection.refresh();
  }

  onEvent(event: StreamEvent, replayed: boolean): void {
    const message = this.#message;
    switch (event.type) {
      case 'delta':
        message.content += event.content;
        message.reasoning += event.reasoning;
        extendRail(message.rail, replayed ? 'replay' : 'live', event.content.length);
        break;
      case 'meta':
        message.completionId = event.completionId;
        break;
      case 'timings':
        message.stats.tokens = event.tokens;
        message.stats.tokensPerSecond = event.tokensPerSecond;
        break;
      case 'usage':
        message.stats.tokens = event.tokens;
        break;
      case 'queued':
        this.queuePosition = event.position;
        break;
      case 'loading':
        this.loadPercent = event.percent;
        break;
    }
    this.#paint();
  }

  onResumed({ cause, gap_ms, offset }: Resumed): void {
    const { rail, stats, content } = this.#message;
    if (content !== '') rail.push({ kind: 'notch', cause, gap_ms, offset, node: this.#node });
    stats.resumes += 1;
    stats.gap_ms += gap_ms;
    this.#paint();
  }

  onRestart(): void {
    this.#message.content = this.#message.content.slice(0, this.#row.prefixChars);
    this.#message.reasoning = '';
    this.#message.rail = [];
    this.#paint();
  }

  onLocked(): void {
    connection.lock(() => this.#session.nudge());
  }

  async #finish(end: End): Promise<void> {
    this.#message.end = end;
    this.#message.problem = this.#session.problem;
    this.#show();
    await context().database.finish(this.#message);
    context().tabs.tell({ conversation: this.#row.conversation });
  }

  /** Takes the session's own position; storage is never asked where a running reply stands. */
  #locate(): void {
    const { epoch, offset } = this.#session.position;
    this.#row.epoch = epoch;
    this.#row.offset = offset;
    this.#message.epoch = epoch;
  }

  /** Copies the reply to its row on the screen, if the row is there. */
  #show(): void {
    const row = conversations.row(this.#message.id);
    if (row === undefined) return;
    const { rail, stats } = this.#message;
    const parts = rail.map((part) => ({ ...part }));
    Object.assign(row, this.#message, { rail: parts, stats: { ...stats } });
  }

  #transport(history: readonly ChatMessage[] | null): Transport {
    const { api } = context();
    const { model, epochBefore } = this.#row;
    const named = async (answer: Promise<Response>): Promise<Response> => {
      const response = await answer;
      this.#node = response.headers.get('X-Replay-Node');
      return response;
    };
    return {
      start: history && ((signal) => named(api.start(this.stream, model, history, signal))),
      resume: (position, signal) => named(api.resume(this.stream, position, signal)),
      find: async (signal) => {
        const sessions = await api.lookup([this.stream], signal);
        const newer = sessions.find((session) => session.epoch > (epochBefore ?? 0));
        return newer?.epoch ?? null;
      },
    };
  }
}

function isBroken(state: SessionState): boolean {
  return state === 'reconnecting' || state === 'waiting';
}
