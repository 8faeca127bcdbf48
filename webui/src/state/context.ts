// What the state modules share: the API, the database, the wake signal and the line to other tabs.
// Made once, before the page is mounted.

import { Api } from '../lib/api.ts';
import { Database } from '../lib/db.ts';
import type { Wake } from '../lib/resume/index.ts';
import { TabChannel } from '../lib/tabs.ts';
import { pageWake } from '../lib/wake.ts';
import { settings } from './settings.svelte.ts';

/** The page's own instances. */
export interface Context {
  readonly api: Api;
  readonly database: Database;
  readonly wake: Wake;
  readonly tabs: TabChannel;
}

let shared: Context | null = null;

/** Opens what the page stands on. Rejects where the browser refuses storage. */
export async function openContext(): Promise<void> {
  shared = {
    api: new Api(document.baseURI, () => settings.key),
    database: await Database.open(),
    wake: pageWake({ document, window, navigator, location }),
    tabs: new TabChannel(),
  };
}

/** The shared instances; `openContext` must have settled. */
export function context(): Context {
  if (shared === null) throw new Error('the page is not opened yet');
  return shared;
}
