import { expect, test } from 'vitest';
import { reconnectDelay, retryAfter } from '../../src/lib/resume/index.ts';

test('the first attempt is immediate, then 250 ms doubles up to 5 s', () => {
  const delays = [0, 1, 2, 3, 4, 5, 6, 7, 40].map((failures) => reconnectDelay(failures, 0.5));
  expect(delays).toEqual([0, 250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
});

test('jitter spreads a delay by a fifth either way', () => {
  expect(reconnectDelay(3, 0)).toBe(800);
  expect(reconnectDelay(3, 0.999_999)).toBe(1200);
});

test('Retry-After is read in whole seconds and ignored otherwise', () => {
  expect(retryAfter('2')).toBe(2000);
  expect(retryAfter(null)).toBeNull();
  expect(retryAfter('Wed, 21 Oct 2026 07:28:00 GMT')).toBeNull();
});
