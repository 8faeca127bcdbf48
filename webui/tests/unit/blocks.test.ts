import { expect, test } from 'vitest';
import { BlockStream, type Block } from '../../src/lib/markdown/blocks.ts';
import { MIXED, SHOWCASE } from '../mock/scripts.mjs';

const LISTS =
  '- a\n- b\n\n  still b\n\n1. one\n\n2. two\n\npara\n***\n\n    indented\n\nSetext\n===\nx\n';
const FENCES = 'a\n\n```py\nx = 1\n\n# not a heading\n```\n\n~~~\nopen\n\nb';

test.each([SHOWCASE, MIXED, LISTS, FENCES])(
  'a text that comes letter by letter ends in the blocks of the whole: %#',
  (text) => {
    const stream = new BlockStream();
    for (let end = 1; end <= text.length; end++) stream.update(text.slice(0, end), false);
    expect(stream.update(text, true)).toEqual(new BlockStream().update(text, true));
  },
);

test.each([SHOWCASE, LISTS, FENCES])('a block that was frozen never changes: %#', (text) => {
  const stream = new BlockStream();
  const seen: Block[] = [];
  for (let end = 1; end <= text.length; end++) {
    const blocks = stream.update(text.slice(0, end), false);
    const frozen = blocks.slice(0, Math.max(0, blocks.length - 2));
    frozen.forEach((block, at) => expect(block).toEqual((seen[at] ??= block)));
  }
});

test('the source of all blocks is the text, whatever the cut', () => {
  for (let end = 1; end <= LISTS.length; end++) {
    const stream = new BlockStream();
    stream.update(LISTS.slice(0, end >> 1), false);
    const words = (blocks: readonly Block[]): string[] =>
      blocks.flatMap(
        (block) => (block.kind === 'text' ? block.source : block.code).match(/\w+/g) ?? [],
      );
    expect(words(stream.update(LISTS.slice(0, end), false))).toEqual(
      LISTS.slice(0, end).match(/\w+/g) ?? [],
    );
  }
});

test('an open fence is code at once and closed when its end comes', () => {
  const stream = new BlockStream();
  expect(stream.update('```py\nx', false)).toEqual([
    { kind: 'code', language: 'py', code: 'x', closed: false },
  ]);
  expect(stream.update('```py\nx\n```\n', false)[0]).toMatchObject({ closed: true });
});

test('a half-written emphasis is closed for the eye only', () => {
  const stream = new BlockStream();
  expect(stream.update('so **bold', false)).toEqual([{ kind: 'text', source: 'so **bold**' }]);
  expect(stream.update('so **bold', true)).toEqual([{ kind: 'text', source: 'so **bold' }]);
});
