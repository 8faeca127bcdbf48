// What this browser keeps: conversations, their messages, where live replies stand, stops not yet delivered.
// Text and offset of a live reply are always written in one transaction, so no crash can tear them apart.
// Must not know: the network, how anything is drawn.

import { openDB, type DBSchema, type IDBPDatabase } from 'idb';
import type { End, Problem } from './resume/index.ts';

/** A conversation as the sidebar lists it. */
export interface Conversation {
  readonly id: string;
  title: string;
  created_ms: number;
  updated_ms: number;
  /** A reply ended while the conversation was not open. */
  unread: boolean;
}

/** A gap between two stretches of a reply that was closed. */
export interface Notch {
  readonly kind: 'notch';
  readonly cause: string;
  readonly gap_ms: number;
  readonly offset: number;
  /** The node that went on, where it said its name. */
  readonly node: string | null;
}

/** A stretch of a reply by how it came, or the gap between two of them. */
export type RailPart = { readonly kind: 'live' | 'replay'; chars: number } | Notch;

/** Figures of one reply. */
export interface Stats {
  tokens: number;
  tokensPerSecond: number;
  resumes: number;
  /** All gaps together. */
  gap_ms: number;
}

/** One row of a conversation. */
export interface Message {
  readonly id: string;
  readonly conversation: string;
  /** Place in the conversation, ascending. */
  readonly order: number;
  readonly role: 'user' | 'assistant';
  readonly created_ms: number;
  /** The model a reply was asked from; frozen when it was sent. */
  readonly model: string | null;
  content: string;
  reasoning: string;
  /** Null while the reply is being written, and for what a person wrote. */
  end: End | null;
  problem: Problem | null;
  epoch: number | null;
  completionId: string | null;
  stats: Stats;
  rail: RailPart[];
}

/** Where the live reply of a conversation stands. */
export interface StreamRow {
  readonly conversation: string;
  readonly message: string;
  readonly model: string | null;
  /** The newest epoch this browser knew before: only a later one can be ours. */
  readonly epochBefore: number | null;
  /** Characters of the row that were there before this session. */
  readonly prefixChars: number;
  epoch: number | null;
  offset: number;
  saved_ms: number;
}

/** A stop that the server has not confirmed. */
export interface PendingStop {
  readonly stream: string;
  readonly epoch: number | null;
  readonly keep: boolean;
}

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  messages: { key: string; value: Message; indexes: { conversation: [string, number] } };
  streams: { key: string; value: StreamRow };
  stops: { key: string; value: PendingStop };
}

const NAME = 'replay-cluster';
const VERSION = 1;
/** Sorts after every number that an order can be. */
const LAST = Infinity;

/** The database of one browser. */
export class Database {
  readonly #db: IDBPDatabase<Schema>;

  private constructor(db: IDBPDatabase<Schema>) {
    this.#db = db;
  }

  /** Opens the database, creating it on the first visit. Rejects where the browser refuses storage. */
  static async open(name: string = NAME): Promise<Database> {
    return new Database(
      await openDB<Schema>(name, VERSION, {
        upgrade(db) {
          db.createObjectStore('conversations', { keyPath: 'id' });
          db.createObjectStore('streams', { keyPath: 'conversation' });
          db.createObjectStore('stops', { keyPath: 'stream' });
          const messages = db.createObjectStore('messages', { keyPath: 'id' });
          messages.createIndex('conversation', ['conversation', 'order']);
        },
      }),
    );
  }

  close(): void {
    this.#db.close();
  }

  conversations(): Promise<Conversation[]> {
    return this.#db.getAll('conversations');
  }

  /** The messages of a conversation, oldest first. */
  messages(conversation: string): Promise<Message[]> {
    const range = IDBKeyRange.bound([conversation, 0], [conversation, LAST]);
    return this.#db.getAllFromIndex('messages', 'conversation', range);
  }

  streams(): Promise<StreamRow[]> {
    return this.#db.getAll('streams');
  }

  stream(conversation: string): Promise<StreamRow | undefined> {
    return this.#db.get('streams', conversation);
  }

  /** The live reply of a conversation with its offset, read together as they were written; null when none is. */
  async live(conversation: string): Promise<{ stream: StreamRow; message: Message } | null> {
    const tx = this.#db.transaction(['messages', 'streams']);
    const stream = await tx.objectStore('streams').get(conversation);
    if (stream === undefined) return null;
    const message = await tx.objectStore('messages').get(stream.message);
    return message === undefined ? null : { stream, message };
  }

  async putConversation(conversation: Conversation): Promise<void> {
    await this.#db.put('conversations', conversation);
  }

  /** Removes a conversation with all that belongs to it. */
  async removeConversation(id: string): Promise<void> {
    const tx = this.#db.transaction(['conversations', 'messages', 'streams'], 'readwrite');
    const range = IDBKeyRange.bound([id, 0], [id, LAST]);
    const messages = tx.objectStore('messages');
    for (const key of await messages.index('conversation').getAllKeys(range)) {
      void messages.delete(key);
    }
    void tx.objectStore('conversations').delete(id);
    void tx.objectStore('streams').delete(id);
    await tx.done;
  }

  async removeMessage(id: string): Promise<void> {
    await this.#db.delete('messages', id);
  }

  /** Stores a new turn before it is sent, so that a reload at any later moment finds its way back. */
  async begin(
    conversation: Conversation,
    messages: readonly Message[],
    stream: StreamRow,
  ): Promise<void> {
    const tx = this.#db.transaction(['conversations', 'messages', 'streams'], 'readwrite');
    void tx.objectStore('conversations').put(conversation);
    for (const message of messages) void tx.objectStore('messages').put(message);
    void tx.objectStore('streams').put(stream);
    await tx.done;
  }

  /** Stores text and offset of a live reply together. A row that is no longer live keeps its offset away. */
  async checkpoint(message: Message, stream: StreamRow): Promise<void> {
    // The reply goes on growing while the transaction waits: what is written is what was passed, both as of now.
    const now = structuredClone({ message, stream });
    const tx = this.#db.transaction(['messages', 'streams'], 'readwrite');
    const streams = tx.objectStore('streams');
    const stored = await streams.get(stream.conversation);
    if (stored?.message === message.id) {
      void tx.objectStore('messages').put(now.message);
      void streams.put(now.stream);
    }
    await tx.done;
  }

  /** Stores a reply that ended; from now on it is not live. */
  async finish(message: Message): Promise<void> {
    const tx = this.#db.transaction(['messages', 'streams'], 'readwrite');
    const streams = tx.objectStore('streams');
    const stored = await streams.get(message.conversation);
    if (stored?.message === message.id) {
      void tx.objectStore('messages').put(message);
      void streams.delete(message.conversation);
    }
    await tx.done;
  }

  stops(): Promise<PendingStop[]> {
    return this.#db.getAll('stops');
  }

  async putStop(stop: PendingStop): Promise<void> {
    await this.#db.put('stops', stop);
  }

  async removeStop(stream: string): Promise<void> {
    await this.#db.delete('stops', stream);
  }
}
