// What a person set on this browser: the API key and the theme. Kept in localStorage, which may be refused.

/** How the page is coloured; `system` follows the machine. */
export type Theme = 'system' | 'light' | 'dark';

const KEY = 'replay.key';
const THEME = 'replay.theme';
const DRAFT = 'replay.draft.';
const THEMES: readonly Theme[] = ['system', 'light', 'dark'];

class Settings {
  key = $state(read(KEY));
  theme = $state<Theme>(THEMES.find((theme) => theme === read(THEME)) ?? 'system');

  setKey(key: string): void {
    this.key = key;
    write(KEY, key);
  }

  /** Goes to the next theme: system, light, dark. */
  nextTheme(): void {
    const next = THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length] ?? 'system';
    this.theme = next;
    write(THEME, next === 'system' ? '' : next);
    if (next === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = next;
  }

  /** The unsent words of a conversation; they survive a reload and the key screen. */
  draft(conversation: string): string {
    return read(DRAFT + conversation);
  }

  setDraft(conversation: string, text: string): void {
    write(DRAFT + conversation, text);
  }
}

function read(name: string): string {
  try {
    return localStorage.getItem(name) ?? '';
  } catch {
    return '';
  }
}

function write(name: string, value: string): void {
  try {
    if (value === '') localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // Storage is refused: the setting holds until the page is closed.
  }
}

/** The one set of settings. */
export const settings = new Settings();
