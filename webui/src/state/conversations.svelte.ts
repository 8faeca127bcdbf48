// The list of conversations and the rows of the one that is open.
// Rows are written by message id: a reply that is not on the screen touches nothing here.

import type { Conversation, Message } from '../lib/db.ts';
import { newId } from '../lib/ids.ts';
import { context } from './context.ts';

const TITLE_CHARS = 80;

class Conversations {
  list = $state<Conversation[]>([]);
  openId = $state<string | null>(null);
  messages = $state<Message[]>([]);

  /** The conversation on the screen; null on an empty page. */
  get open(): Conversation | null {
    return this.list.find((conversation) => conversation.id === this.openId) ?? null;
  }

  async load(): Promise<void> {
    const stored = await context().database.conversations();
    this.list = stored.sort((a, b) => b.updated_ms - a.updated_ms);
  }

  /** Puts a conversation on the screen, as far as this browser has it. */
  async show(id: string | null): Promise<void> {
    this.openId = id;
    this.messages = [];
    if (id === null) return;
    await this.reloadMessages();
    const open = this.open;
    if (open?.unread === true) await this.#change(open, { unread: false });
  }

  async reloadMessages(): Promise<void> {
    const id = this.openId;
    if (id === null) return;
    const messages = await context().database.messages(id);
    if (this.openId === id) this.messages = messages;
  }

  /** A new conversation, named after its first words. It is stored with its first turn. */
  create(firstWords: string): Conversation {
    const now_ms = Date.now();
    const title = titleOf(firstWords);
    return { id: newId(), title, created_ms: now_ms, updated_ms: now_ms, unread: false };
  }

  /** Shows the rows of a turn that was just stored. */
  put(conversation: Conversation, messages: readonly Message[]): void {
    const others = this.list.filter((other) => other.id !== conversation.id);
    this.list = [conversation, ...others];
    if (this.openId === conversation.id) this.messages = [...this.messages, ...messages];
  }

  /** The row on the screen, or undefined when it is not there. */
  row(message: string): Message | undefined {
    return this.messages.find((row) => row.id === message);
  }

  async removeRow(message: string): Promise<void> {
    this.messages = this.messages.filter((row) => row.id !== message);
    await context().database.removeMessage(message);
  }

  async rename(id: string, title: string): Promise<void> {
    const conversation = this.list.find((other) => other.id === id);
    const trimmed = title.trim();
    if (conversation !== undefined && trimmed !== '') {
      await this.#change(conversation, { title: trimmed });
    }
  }

  async markUnread(id: string): Promise<void> {
    const conversation = this.list.find((other) => other.id === id);
    if (conversation !== undefined) await this.#change(conversation, { unread: true });
  }

  async remove(id: string): Promise<void> {
    // Stored first: what is gone from the list must not come back with a reload.
    await context().database.removeConversation(id);
    this.list = this.list.filter((conversation) => conversation.id !== id);
    context().tabs.tell({ conversation: id });
  }

  async #change(conversation: Conversation, fields: Partial<Conversation>): Promise<void> {
    Object.assign(conversation, fields);
    await context().database.putConversation($state.snapshot(conversation));
    context().tabs.tell({ conversation: conversation.id });
  }
}

function titleOf(words: string): string {
  const line = words.trim().split('\n', 1)[0] ?? '';
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1).trimEnd()}…` : line;
}

/** The one list. */
export const conversations = new Conversations();
