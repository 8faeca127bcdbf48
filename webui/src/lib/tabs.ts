// Several tabs on one browser: exactly one writes a conversation, and the others hear what changed.
// Where the browser has no locks (a page over plain HTTP) every tab writes; since text and offset go together,
// the worst that can happen is an older checkpoint.

/** Whether some tab, this one too, is writing a conversation's live reply. False where there are no locks. */
export async function hasWriter(
  conversation: string,
  locks: LockManager | undefined,
): Promise<boolean> {
  const { held } = (await locks?.query()) ?? {};
  return held?.some((lock) => lock.name === lockName(conversation)) ?? false;
}

function lockName(conversation: string): string {
  return `replay-cluster:${conversation}`;
}

/** The right to write one conversation's live reply. */
export class WriterLock {
  #owned = false;
  #release: () => void = () => {};

  /** Asks for the right; it may come later, when the tab that has it goes away. */
  constructor(conversation: string, locks: LockManager | undefined) {
    if (locks === undefined) {
      this.#owned = true;
      return;
    }
    const gone = new AbortController();
    const held = new Promise<void>((settle) => {
      this.#release = () => {
        gone.abort();
        settle();
      };
    });
    locks
      .request(lockName(conversation), { signal: gone.signal }, () => {
        this.#owned = true;
        return held;
      })
      .catch(() => {});
  }

  get owned(): boolean {
    return this.#owned;
  }

  release(): void {
    this.#owned = false;
    this.#release();
  }
}

/** What a tab tells the others. */
export interface TabNotice {
  /** The conversation that changed in the database. */
  readonly conversation: string;
}

/** The line between the tabs of one browser. */
export class TabChannel {
  readonly #channel = new BroadcastChannel('replay-cluster');

  /** Hears what other tabs changed; never its own words. */
  listen(onNotice: (notice: TabNotice) => void): void {
    this.#channel.onmessage = (event: MessageEvent<TabNotice>) => onNotice(event.data);
  }

  tell(notice: TabNotice): void {
    this.#channel.postMessage(notice);
  }
}
