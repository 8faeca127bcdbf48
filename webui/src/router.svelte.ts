// The address in the hash: `#/` is the empty page, `#/c/<id>` a conversation. The server never sees it.

const CONVERSATION = /^#\/c\/([\w-]+)$/;

class Router {
  /** The conversation in the address, or null on the empty page. */
  conversation = $state<string | null>(read());

  constructor() {
    window.addEventListener('hashchange', () => (this.conversation = read()));
  }

  go(conversation: string | null): void {
    location.hash = hrefOf(conversation).slice(1);
  }
}

/** The address of a conversation, or of the empty page. */
export function hrefOf(conversation: string | null): string {
  return conversation === null ? '#/' : `#/c/${conversation}`;
}

function read(): string | null {
  return CONVERSATION.exec(location.hash)?.[1] ?? null;
}

/** The one address. */
export const router = new Router();
