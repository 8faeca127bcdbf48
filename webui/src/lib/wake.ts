// When it is worth talking to the network: the tab is looked at and the machine is online.
// The only part of lib/ that listens to the page, through targets that are handed in.

import type { Wake } from './resume/index.ts';

/** Wake events come in bursts; one of them is enough. */
const BURST_MS = 300;

/** The parts of a page that say whether anybody is there. */
export interface Page {
  readonly document: Pick<Document, 'visibilityState' | 'addEventListener'>;
  readonly window: Pick<Window, 'addEventListener'>;
  readonly navigator: Pick<Navigator, 'onLine'>;
  readonly location: Pick<Location, 'hostname'>;
}

/** Wakes on `online`, return to the tab, `pageshow` and the page lifecycle's `resume`; at once, once a burst. */
export function pageWake(page: Page): Wake {
  const listeners = new Set<() => void>();
  let last_ms = -Infinity;
  const wake: Wake = {
    awake: () => page.document.visibilityState === 'visible' && reachable(page),
    subscribe(onWake) {
      listeners.add(onWake);
      return () => listeners.delete(onWake);
    },
  };
  const ring = (): void => {
    if (!wake.awake() || Date.now() - last_ms < BURST_MS) return;
    last_ms = Date.now();
    for (const listener of listeners) listener();
  };
  page.document.addEventListener('visibilitychange', ring);
  page.document.addEventListener('resume', ring);
  page.window.addEventListener('online', ring);
  page.window.addEventListener('pageshow', ring);
  return wake;
}

/** A machine without a network still reaches the cluster that runs on it. */
function reachable({ navigator, location }: Page): boolean {
  return navigator.onLine || /^(localhost|127\..*|\[::1\])$/.test(location.hostname);
}
