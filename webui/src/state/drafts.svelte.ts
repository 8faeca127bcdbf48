// What is typed and not sent, and the one message that waits for the reply before it. Both belong to a conversation.

import { SvelteMap } from 'svelte/reactivity';
import { settings } from './settings.svelte.ts';

/** The name under which words for a conversation that does not exist yet are kept. */
const UNBORN = 'new';

class Drafts {
  readonly #texts = new SvelteMap<string, string>();
  readonly #queued = new SvelteMap<string, string>();

  text(conversation: string | null): string {
    const name = conversation ?? UNBORN;
    return this.#texts.get(name) ?? settings.draft(name);
  }

  setText(conversation: string | null, text: string): void {
    this.#texts.set(conversation ?? UNBORN, text);
    settings.setDraft(conversation ?? UNBORN, text);
  }

  queued(conversation: string): string | null {
    return this.#queued.get(conversation) ?? null;
  }

  /** Lets a message wait; a second one is joined to the first, since only one waits. */
  queue(conversation: string, text: string): void {
    const waiting = this.#queued.get(conversation);
    this.#queued.set(conversation, waiting === undefined ? text : `${waiting}\n\n${text}`);
  }

  takeQueued(conversation: string): string | null {
    const text = this.queued(conversation);
    this.#queued.delete(conversation);
    return text;
  }

  /** Puts a waiting message back into the composer, before what is typed there. */
  unqueue(conversation: string): void {
    const waiting = this.takeQueued(conversation);
    if (waiting === null) return;
    const typed = this.text(conversation);
    this.setText(conversation, typed === '' ? waiting : `${waiting}\n\n${typed}`);
  }
}

/** The one set of drafts. */
export const drafts = new Drafts();
