// The stream rail's record: which stretches of a reply came live, which were replayed, where the gaps were. Pure.

import type { RailPart } from './db.ts';

/** Adds `chars` characters that came one way. */
export function extendRail(rail: RailPart[], kind: 'live' | 'replay', chars: number): void {
  const last = rail.at(-1);
  if (last?.kind === kind) last.chars += chars;
  else rail.push({ kind, chars });
}

/** What a page that was reloaded shows: all it has so far comes from storage, nothing of it is live. */
export function restoredRail(rail: readonly RailPart[]): RailPart[] {
  const restored: RailPart[] = [];
  for (const part of rail) {
    if (part.kind === 'notch') restored.push(part);
    else extendRail(restored, 'replay', part.chars);
  }
  return restored;
}
