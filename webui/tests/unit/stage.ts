// What the session tests share: a session wired to a mock node, and a record of what it told.

import { Api } from '../../src/lib/api.ts';
import {
  Session,
  SYSTEM_CLOCK,
  type Clock,
  type End,
  type Position,
  type Resumed,
  type SessionState,
  type StreamEvent,
  type Transport,
  type Wake,
} from '../../src/lib/resume/index.ts';

/** Real time, with the waits between attempts cut short so that thousands of cuts take seconds. */
export const QUICK_CLOCK: Clock = {
  ...SYSTEM_CLOCK,
  after: (delay_ms, callback) => SYSTEM_CLOCK.after(Math.min(delay_ms, 1), callback),
};

/** Time that passes only when a test says so. */
export class ManualClock implements Clock {
  #now_ms = 1_000_000;
  #timers: { at_ms: number; callback: () => void }[] = [];

  now = (): number => this.#now_ms;
  random = (): number => 0.5;

  after(delay_ms: number, callback: () => void): () => void {
    const timer = { at_ms: this.#now_ms + delay_ms, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  /** Milliseconds until each armed timer, soonest first. */
  get armed_ms(): number[] {
    return this.#timers.map((timer) => timer.at_ms - this.#now_ms).sort((a, b) => a - b);
  }

  advance(by_ms: number): void {
    const until_ms = this.#now_ms + by_ms;
    for (;;) {
      const due = this.#timers
        .filter((timer) => timer.at_ms <= until_ms)
        .sort((a, b) => a.at_ms - b.at_ms)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#now_ms = due.at_ms;
      due.callback();
    }
    this.#now_ms = until_ms;
  }
}

/** A tab whose attention a test switches. */
export class ManualWake implements Wake {
  isAwake = true;
  #listeners = new Set<() => void>();

  awake = (): boolean => this.isAwake;

  subscribe(onWake: () => void): () => void {
    this.#listeners.add(onWake);
    return () => this.#listeners.delete(onWake);
  }

  wake(): void {
    this.isAwake = true;
    for (const listener of this.#listeners) listener();
  }
}

/** A sink that keeps all it is told. */
export class Record {
  text = '';
  replayedText = '';
  states: SessionState[] = [];
  events: StreamEvent[] = [];
  resumed: Resumed[] = [];
  restarts = 0;
  locked = 0;

  onState = (state: SessionState): number => this.states.push(state);
  onResumed = (resumed: Resumed): number => this.resumed.push(resumed);
  onLocked = (): number => this.locked++;

  onEvent = (event: StreamEvent, replayed: boolean): void => {
    this.events.push(event);
    if (event.type !== 'delta') return;
    this.text += event.content;
    if (replayed) this.replayedText += event.content;
  };

  onRestart = (): void => {
    this.restarts++;
    this.text = '';
  };
}

/** Options of `stage`. */
export interface Staging {
  readonly base: string;
  readonly stream?: string;
  readonly position?: Position;
  readonly clock?: Clock;
  readonly wake?: Wake;
  readonly ping_s?: number | null;
  readonly key?: () => string;
  readonly epochBefore?: number;
}

/** A session against a node, not yet running. */
export function stage(staging: Staging): { session: Session; record: Record } {
  const api = new Api(staging.base, staging.key ?? (() => ''));
  const stream = staging.stream ?? 'conversation::qwen3-8b';
  const transport: Transport = {
    start: (signal) => api.start(stream, 'qwen3-8b', [{ role: 'user', content: 'Hi' }], signal),
    resume: (position, signal) => api.resume(stream, position, signal),
    find: async (signal) => {
      const [found] = await api.lookup([stream], signal);
      return found !== undefined && found.epoch > (staging.epochBefore ?? 0) ? found.epoch : null;
    },
  };
  const record = new Record();
  const session = new Session({
    transport: staging.position === undefined ? transport : { ...transport, start: null },
    sink: record,
    wake: staging.wake ?? new ManualWake(),
    clock: staging.clock ?? QUICK_CLOCK,
    ping_s: () => staging.ping_s ?? null,
    ...(staging.position === undefined ? {} : { position: staging.position }),
  });
  return { session, record };
}

/** Runs a session to its end. */
export async function play(
  staging: Staging,
): Promise<{ session: Session; record: Record; end: End | null }> {
  const { session, record } = stage(staging);
  return { session, record, end: await session.run() };
}

/** Waits for a condition, for at most as long as a busy machine may take. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline_ms = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline_ms) throw new Error('the condition did not come true in 30 s');
    await new Promise((settle) => setTimeout(settle, 1));
  }
}
