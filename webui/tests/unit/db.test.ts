import 'fake-indexeddb/auto';
import { beforeEach, expect, test } from 'vitest';
import { Database, type Message, type StreamRow } from '../../src/lib/db.ts';

let database: Database;
let names = 0;

beforeEach(async () => {
  database = await Database.open(`test-${names++}`);
});

const conversation = { id: 'c', title: 'T', created_ms: 1, updated_ms: 1, unread: false };

function reply(id: string, content: string, order = 1): Message {
  return {
    id,
    conversation: 'c',
    order,
    role: 'assistant',
    created_ms: 1,
    model: 'm',
    content,
    reasoning: '',
    end: null,
    problem: null,
    epoch: 1,
    completionId: null,
    stats: { tokens: 0, tokensPerSecond: 0, resumes: 0, gap_ms: 0 },
    rail: [],
  };
}

function stream(message: string, offset: number): StreamRow {
  return {
    conversation: 'c',
    message,
    model: 'm',
    epochBefore: null,
    prefixChars: 0,
    epoch: 1,
    offset,
    saved_ms: 1,
  };
}

test('text and offset of a checkpoint are stored together', async () => {
  await database.begin(conversation, [reply('a', '')], stream('a', 0));
  await database.checkpoint(reply('a', 'half'), stream('a', 44));
  expect((await database.messages('c')).map((message) => message.content)).toEqual(['half']);
  expect((await database.stream('c'))?.offset).toBe(44);
});

test('a reply that grows while its checkpoint is written does not get ahead of its offset', async () => {
  await database.begin(conversation, [reply('a', '')], stream('a', 0));
  const growing = reply('a', 'half');
  const written = database.checkpoint(growing, stream('a', 44));
  growing.content += ' and more';
  await written;
  expect((await database.messages('c'))[0]?.content).toBe('half');
});

test('a late checkpoint of an earlier reply changes nothing of the next', async () => {
  await database.begin(conversation, [reply('a', 'whole')], stream('a', 0));
  await database.begin(conversation, [reply('b', '', 2)], stream('b', 0));
  await database.checkpoint(reply('a', 'ha'), stream('a', 44));
  expect((await database.messages('c')).map((message) => message.content)).toEqual(['whole', '']);
  expect(await database.stream('c')).toMatchObject({ message: 'b', offset: 0 });
});

test('a reply that ended is not live any more, and no late checkpoint shortens it', async () => {
  await database.begin(conversation, [reply('a', '')], stream('a', 0));
  await database.finish({ ...reply('a', 'whole'), end: { state: 'completed', reason: null } });
  await database.checkpoint(reply('a', 'wh'), stream('a', 10));
  expect((await database.messages('c'))[0]?.content).toBe('whole');
  expect(await database.streams()).toEqual([]);
});

test('messages come back in their order', async () => {
  await database.begin(conversation, [reply('b', '2', 2), reply('a', '1', 1)], stream('b', 0));
  expect((await database.messages('c')).map((message) => message.content)).toEqual(['1', '2']);
});

test('a removed conversation leaves nothing behind', async () => {
  await database.begin(conversation, [reply('a', 'x')], stream('a', 0));
  await database.removeConversation('c');
  expect(await database.conversations()).toEqual([]);
  expect(await database.messages('c')).toEqual([]);
  expect(await database.streams()).toEqual([]);
});
