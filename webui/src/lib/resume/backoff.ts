// How long to wait before the next attempt to reconnect. Pure: randomness comes in as an argument.

const FIRST_DELAY_MS = 250;
const DELAY_MS_MAX = 5_000;
const JITTER = 0.2;

/**
 * Delay before an attempt.
 *
 * @param failures attempts that failed in a row; 0 means the connection just dropped, which is retried at once
 * @param random a number in [0, 1)
 * @returns milliseconds: 0, then 250 doubling to 5,000, each spread by 20 % so that readers do not return as a herd
 */
export function reconnectDelay(failures: number, random: number): number {
  if (failures <= 0) return 0;
  const delay_ms = Math.min(FIRST_DELAY_MS * 2 ** (failures - 1), DELAY_MS_MAX);
  return Math.round(delay_ms * (1 + JITTER * (2 * random - 1)));
}

/**
 * Reads a `Retry-After` header.
 *
 * @returns milliseconds, or null when the header is absent or is not a number of seconds
 */
export function retryAfter(value: string | null): number | null {
  if (value === null || !/^\d+$/.test(value.trim())) return null;
  return Number(value) * 1_000;
}
