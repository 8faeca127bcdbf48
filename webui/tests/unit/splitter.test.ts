import { expect, test } from 'vitest';
import { RecordSplitter, type StreamRecord } from '../../src/lib/resume/index.ts';

const BODY = new TextEncoder().encode(
  '\uFEFFdata: {"a":"é漢🙂"}\n\n:\n\n: queued 3\r\n\r\ndata: one\ndata: two\n\ndata: [DONE]\n\n',
);

function split(parts: Uint8Array[]): StreamRecord[] {
  const splitter = new RecordSplitter();
  return parts.flatMap((part) => splitter.push(part));
}

test('records are the same however the bytes are cut in two', () => {
  const whole = split([BODY]);
  for (let cut = 0; cut <= BODY.length; cut++) {
    expect(split([BODY.subarray(0, cut), BODY.subarray(cut)])).toEqual(whole);
  }
});

test('records are the same when every byte comes alone', () => {
  const bytes = Array.from(BODY, (byte) => Uint8Array.of(byte));
  expect(split(bytes)).toEqual(split([BODY]));
});

test('a record holds its data, its comments and its size', () => {
  const records = split([BODY]);
  expect(records.map((record) => record.data)).toEqual([
    '{"a":"é漢🙂"}',
    null,
    null,
    'one\ntwo',
    '[DONE]',
  ]);
  expect(records[2]?.comments).toEqual(['queued 3']);
  expect(records.reduce((sum, record) => sum + record.bytes, 0)).toBe(BODY.length);
});

test('an unfinished record is held back and not counted', () => {
  const splitter = new RecordSplitter();
  const bytes = new TextEncoder().encode('data: a\n\ndata: 漢');
  const records = splitter.push(bytes.subarray(0, bytes.length - 1));
  expect(records.map((record) => record.bytes)).toEqual([9]);
  expect(splitter.pendingBytes).toBe(8);
});
