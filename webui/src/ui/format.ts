// Numbers and dates as the page writes them. Pure.

const DAY_MS = 86_400_000;
const WEEK_DAYS = 7;

/** "0.8 s", "12 s", "3 min". */
export function seconds(duration_ms: number): string {
  const duration_s = duration_ms / 1_000;
  if (duration_s < 10) return `${duration_s.toFixed(1)} s`;
  if (duration_s < 100) return `${Math.round(duration_s)} s`;
  return `${Math.round(duration_s / 60)} min`;
}

/** "once", "twice", "3 times". */
export function times(count: number): string {
  return ['never', 'once', 'twice'][count] ?? `${count} times`;
}

/** The heading under which a conversation of that time is listed. */
export function dayGroup(at_ms: number, now_ms: number): string {
  const midnight = new Date(now_ms).setHours(0, 0, 0, 0);
  if (at_ms >= midnight) return 'Today';
  if (at_ms >= midnight - DAY_MS) return 'Yesterday';
  if (at_ms >= midnight - WEEK_DAYS * DAY_MS) return 'Last week';
  return 'Older';
}
