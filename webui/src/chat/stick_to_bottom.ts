// Keeps a growing list at its end while the reader is at its end, and only then.
// The one owner of scrolling: where the reader is, is read from the position and never guessed from time.

const AT_BOTTOM_PX = 48;

/** Holds an element's scroll position. */
export class StickToBottom {
  readonly #onChange: (atBottom: boolean) => void;
  #element: HTMLElement | null = null;
  #atBottom = true;

  constructor(onChange: (atBottom: boolean) => void) {
    this.#onChange = onChange;
  }

  /** Takes charge of a scrolling element with one child; returns what lets go. */
  attach(element: HTMLElement): () => void {
    this.#element = element;
    const observer = new ResizeObserver(() => {
      if (this.#atBottom) this.toBottom();
      else this.#look();
    });
    observer.observe(element);
    if (element.firstElementChild !== null) observer.observe(element.firstElementChild);
    const look = (): void => this.#look();
    element.addEventListener('scroll', look, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener('scroll', look);
      this.#element = null;
    };
  }

  /** Goes to the end and stays there. */
  toBottom(): void {
    this.#set(true);
    this.#element?.scrollTo({ top: this.#element.scrollHeight, behavior: 'instant' });
  }

  #look(): void {
    const element = this.#element;
    if (element === null) return;
    const below_px = element.scrollHeight - element.clientHeight - element.scrollTop;
    this.#set(below_px <= AT_BOTTOM_PX);
  }

  #set(atBottom: boolean): void {
    if (atBottom === this.#atBottom) return;
    this.#atBottom = atBottom;
    this.#onChange(atBottom);
  }
}
