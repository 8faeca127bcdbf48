// Replies that run on the server while this tab does not receive them: the live dots of the other conversations.
// Only ids from this browser's own database are ever asked for.

import { SvelteSet } from 'svelte/reactivity';
import type { SessionInfo } from '../lib/api.ts';
import type { StreamRow } from '../lib/db.ts';
import { streamId } from '../lib/ids.ts';
import { hasWriter } from '../lib/tabs.ts';
import { context } from './context.ts';
import { sessions } from './sessions.svelte.ts';

const POLL_MS = 2_000;
/** A reply that was just sent may not be known to the server yet. */
const UNKNOWN_GRACE_MS = 30_000;

class Activity {
  /** Conversations whose reply runs in the background. */
  readonly running = new SvelteSet<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asking = false;

  /** Looks now, on every return to the tab, and every two seconds while something runs. */
  async start(): Promise<void> {
    context().wake.subscribe(() => void this.look());
    for (const row of await context().database.streams()) this.running.add(row.conversation);
    await this.look();
  }

  /** One look at everything that is live and not received here. */
  async look(): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    try {
      await this.#look();
    } catch {
      // The network is away: what was running is still shown as running until somebody knows better.
    } finally {
      this.#asking = false;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.#lookWhenSeen(), POLL_MS);
    }
  }

  async #look(): Promise<void> {
    const stored = await context().database.streams();
    const rows = stored.filter((row) => !sessions.live.has(row.conversation));
    for (const conversation of this.running) {
      if (!rows.some((row) => row.conversation === conversation)) this.running.delete(conversation);
    }
    if (rows.length === 0) return;
    for (const row of rows) this.running.add(row.conversation);
    const found = await context().api.lookup(
      rows.map((row) => streamId(row.conversation, row.model)),
    );
    for (const row of rows) await this.#settle(row, found);
  }

  /** A reply that is over is fetched to its end, before the server forgets it. */
  async #settle(row: StreamRow, found: readonly SessionInfo[]): Promise<void> {
    const id = streamId(row.conversation, row.model);
    const session = found.find((info) => info.conversation_id === id && isOurs(row, info));
    if (session !== undefined && !session.is_done) return;
    if (session === undefined && Date.now() - row.saved_ms < UNKNOWN_GRACE_MS) return;
    if (await hasWriter(row.conversation, navigator.locks)) return;
    this.running.delete(row.conversation);
    await sessions.follow(row.conversation);
  }

  #lookWhenSeen(): Promise<void> | undefined {
    return document.hidden ? undefined : this.look();
  }
}

function isOurs(row: StreamRow, info: SessionInfo): boolean {
  return row.epoch === null ? info.epoch > (row.epochBefore ?? 0) : info.epoch === row.epoch;
}

/** The one activity. */
export const activity = new Activity();
