// The one polite live region: a reply started, a reply ended. Nothing per token.

class Announcer {
  message = $state('');

  say(message: string): void {
    this.message = message;
  }
}

/** The one voice of the page. */
export const announcer = new Announcer();
