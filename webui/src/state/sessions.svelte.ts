// What a person does with replies: send, stop, retry, open, leave. One live reply a conversation, and a connection
// only for the conversation that is open or has a message waiting: browsers allow six a host, over all tabs.

import { SvelteMap } from 'svelte/reactivity';
import type { ChatMessage } from '../lib/api.ts';
import type { Conversation, Message, StreamRow } from '../lib/db.ts';
import { newId, streamId } from '../lib/ids.ts';
import type { End } from '../lib/resume/index.ts';
import { announcer } from './announcer.svelte.ts';
import { connection } from './connection.svelte.ts';
import { context } from './context.ts';
import { conversations } from './conversations.svelte.ts';
import { drafts } from './drafts.svelte.ts';
import { LiveReply } from './live_reply.svelte.ts';
import { stops } from './stops.svelte.ts';

class Sessions {
  /** The replies this tab is receiving, by conversation. */
  readonly live = new SvelteMap<string, LiveReply>();
  readonly #leaving = new Map<string, Promise<void>>();

  /** Stores a message and asks for its reply. Returns the conversation it went to. */
  async send(conversation: Conversation | null, text: string): Promise<Conversation> {
    const target = conversation ?? conversations.create(text);
    const earlier = await context().database.messages(target.id);
    const question = blankMessage(target.id, 'user', nextOrder(earlier));
    question.content = text;
    await this.#ask(target, [...earlier, question], [question]);
    return target;
  }

  /** Asks again for the reply in a row, which gives way to the new one. */
  async regenerate(row: Message): Promise<void> {
    const conversation = conversations.list.find((other) => other.id === row.conversation);
    if (conversation === undefined || this.live.has(conversation.id)) return;
    await conversations.removeRow(row.id);
    const earlier = await context().database.messages(conversation.id);
    const before = earlier.filter((message) => message.order < row.order);
    await this.#ask(conversation, before, [], row.epoch);
  }

  /** Ends the reply here and on the server; what was said stays. */
  async stop(conversation: string): Promise<void> {
    const reply = this.live.get(conversation);
    if (reply === undefined) return;
    this.live.delete(conversation);
    drafts.unqueue(conversation);
    const { stream, epoch } = reply;
    await Promise.all([reply.stop(), stops.stop({ stream, epoch, keep: true })]);
    announcer.say('Reply stopped');
  }

  /** Puts a conversation on the screen and goes on with its reply, if one is live. */
  async open(conversation: string | null): Promise<void> {
    const left = conversations.openId;
    if (left !== null && left !== conversation) this.#leave(left);
    if (conversation !== null) await this.#leaving.get(conversation);
    await conversations.show(conversation);
    if (conversation !== null) await this.follow(conversation);
  }

  /** Attaches to the stored live reply of a conversation, from the byte it stands at. */
  async follow(conversation: string): Promise<void> {
    if (this.live.has(conversation)) return;
    const stored = await context().database.live(conversation);
    if (stored === null || this.live.has(conversation)) return;
    this.#run(new LiveReply(stored.message, stored.stream, null));
  }

  /** Deletes a conversation here, and its session on the server. */
  async remove(conversation: string): Promise<void> {
    const stored = await context().database.live(conversation);
    const reply = this.live.get(conversation);
    this.live.delete(conversation);
    await reply?.stop();
    await conversations.remove(conversation);
    if (stored === null) return;
    const { model, epoch } = stored.stream;
    await stops.stop({ stream: streamId(conversation, model), epoch, keep: false });
  }

  /** Stores where every live reply stands, e.g. because the page may be about to go. */
  checkpointAll(): void {
    for (const reply of this.live.values()) void reply.checkpoint();
  }

  async #ask(
    conversation: Conversation,
    history: readonly Message[],
    added: readonly Message[],
    epochBefore: number | null = null,
  ): Promise<void> {
    const { model } = connection;
    const reply = { ...blankMessage(conversation.id, 'assistant', nextOrder(history)), model };
    const epochs = history.map((message) => message.epoch ?? 0);
    const row: StreamRow = {
      conversation: conversation.id,
      message: reply.id,
      model,
      epochBefore: Math.max(0, epochBefore ?? 0, ...epochs),
      prefixChars: 0,
      epoch: null,
      offset: 0,
      saved_ms: Date.now(),
    };
    const stored = { ...$state.snapshot(conversation), updated_ms: Date.now() };
    await stops.forgetUnaddressed(streamId(conversation.id, model));
    await context().database.begin(stored, [...added, reply], row);
    conversations.put(stored, [...added, reply]);
    this.#run(new LiveReply(reply, row, history.flatMap(asChatMessage)));
    context().tabs.tell({ conversation: conversation.id });
  }

  #run(reply: LiveReply): void {
    const { conversation } = reply.message;
    this.live.set(conversation, reply);
    if (conversations.openId === conversation) announcer.say('Reply started');
    void reply.run().then((end) => this.#ended(reply, end));
  }

  async #ended(reply: LiveReply, end: End | null): Promise<void> {
    const { conversation } = reply.message;
    if (this.live.get(conversation) === reply) this.live.delete(conversation);
    if (end === null) return;
    // The rows may have been read from storage just before the end was written there.
    if (conversations.row(reply.message.id)?.end === null) await conversations.reloadMessages();
    if (conversations.openId === conversation) announcer.say(farewell(reply.message, end));
    else await conversations.markUnread(conversation);
    if (end.state !== 'completed') drafts.unqueue(conversation);
    const next = drafts.takeQueued(conversation);
    const target = conversations.list.find((other) => other.id === conversation);
    if (next !== null && target !== undefined) await this.send(target, next);
  }

  #leave(conversation: string): void {
    const reply = this.live.get(conversation);
    if (reply === undefined || drafts.queued(conversation) !== null) return;
    const left = reply.detach().finally(() => {
      if (this.live.get(conversation) === reply) this.live.delete(conversation);
      this.#leaving.delete(conversation);
    });
    this.#leaving.set(conversation, left);
  }
}

function blankMessage(conversation: string, role: Message['role'], order: number): Message {
  return {
    id: newId(),
    conversation,
    order,
    role,
    created_ms: Date.now(),
    model: null,
    content: '',
    reasoning: '',
    end: null,
    problem: null,
    epoch: null,
    completionId: null,
    stats: { tokens: 0, tokensPerSecond: 0, resumes: 0, gap_ms: 0 },
    rail: [],
  };
}

function nextOrder(messages: readonly Message[]): number {
  return (messages.at(-1)?.order ?? 0) + 1;
}

/** A reply that never said anything is not part of what the model is told. */
function asChatMessage({ role, content }: Message): ChatMessage[] {
  return content === '' ? [] : [{ role, content }];
}

function farewell(message: Message, end: End): string {
  return end.state === 'completed' ? `Reply finished. ${message.content}` : `Reply ${end.state}`;
}

/** The one set of sessions. */
export const sessions = new Sessions();
