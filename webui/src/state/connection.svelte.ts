// Which cluster this page talks to, and whether it answers: node, workers, models, ping.

import { ApiError, type Model, type Props } from '../lib/api.ts';
import { context } from './context.ts';
import { settings } from './settings.svelte.ts';

const REFRESH_MS = 15_000;
const REFRESH_LOST_MS = 2_000;

/** How the API answers just now. */
export type Reach = 'asking' | 'connected' | 'lost' | 'locked';

class Connection {
  reach = $state<Reach>('asking');
  props = $state.raw<Props | null>(null);
  models = $state.raw<readonly Model[]>([]);
  /** The model a person picked; null leaves the choice to the page. */
  picked = $state<string | null>(null);
  /** What waits for a key. */
  readonly #waiting = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** The model the next message goes to, or null while none is known. */
  get model(): string | null {
    if (this.models.some((model) => model.id === this.picked)) return this.picked;
    const loaded = this.models.find((model) => model.status === 'loaded');
    return (loaded ?? this.models[0])?.id ?? null;
  }

  /** Keeps asking until the page is closed. */
  start(): void {
    context().wake.subscribe(() => void this.refresh());
    void this.refresh();
  }

  async refresh(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      const { api } = context();
      [this.props, this.models] = await Promise.all([api.props(), api.models()]);
      this.reach = 'connected';
    } catch (error) {
      if (isLocked(error)) this.reach = 'locked';
      else if (this.reach !== 'locked') this.reach = 'lost';
    }
    const next_ms = this.reach === 'lost' ? REFRESH_LOST_MS : REFRESH_MS;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.refreshWhenSeen(), next_ms);
  }

  /** Shows the key screen; `retry` is called once a key is set. */
  lock(retry: () => void): void {
    this.reach = 'locked';
    this.#waiting.add(retry);
  }

  /** Tries a key and lets everything that waited go on. */
  async unlock(key: string): Promise<boolean> {
    settings.setKey(key);
    this.reach = 'asking';
    await this.refresh();
    if ((this.reach as Reach) === 'locked') return false;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const retry of waiting) retry();
    return true;
  }

  /** A hidden tab asks nothing; its return does. */
  refreshWhenSeen(): Promise<void> | undefined {
    return context().wake.awake() ? this.refresh() : undefined;
  }
}

/** Whether an error says that a key is needed. */
export function isLocked(error: unknown): boolean {
  return error instanceof ApiError && error.problem.code === 401;
}

/** The one connection. */
export const connection = new Connection();
