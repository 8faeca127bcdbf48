// Stops on their way to the server. A stop is stored before it is sent and kept until it was answered, so that
// neither a dead network nor a closed page lets a stopped session run on.

import { SvelteSet } from 'svelte/reactivity';
import type { PendingStop } from '../lib/db.ts';
import { reconnectDelay } from '../lib/resume/index.ts';
import { connection, isLocked } from './connection.svelte.ts';
import { context } from './context.ts';

class Stops {
  /** Streams whose stop has not been answered yet. */
  readonly pending = new SvelteSet<string>();
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Delivers what an earlier page left behind. */
  async start(): Promise<void> {
    for (const stop of await context().database.stops()) this.pending.add(stop.stream);
    context().wake.subscribe(() => void this.#deliver());
    await this.#deliver();
  }

  async stop(stop: PendingStop): Promise<void> {
    this.pending.add(stop.stream);
    await context().database.putStop(stop);
    await this.#deliver();
  }

  /** A new session replaces the old one anyway; a stop that names no epoch would hit the new one. */
  async forgetUnaddressed(stream: string): Promise<void> {
    const stops = await context().database.stops();
    if (stops.some((stop) => stop.stream === stream && stop.epoch === null)) {
      await this.#settled(stream);
    }
  }

  async #deliver(): Promise<void> {
    clearTimeout(this.#timer);
    const { api, database } = context();
    try {
      for (const { stream, epoch, keep } of await database.stops()) {
        await api.stop(stream, epoch, keep);
        await this.#settled(stream);
      }
      this.#failures = 0;
    } catch (error) {
      if (isLocked(error)) connection.lock(() => void this.#deliver());
      this.#failures += 1;
      const delay_ms = reconnectDelay(this.#failures, Math.random());
      this.#timer = setTimeout(() => void this.#deliver(), delay_ms);
    }
  }

  async #settled(stream: string): Promise<void> {
    this.pending.delete(stream);
    await context().database.removeStop(stream);
  }
}

/** The one list of stops. */
export const stops = new Stops();
