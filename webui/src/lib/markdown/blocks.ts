// Cuts a growing Markdown text into blocks, so that only the last one is ever parsed again.
// A block is frozen once a later block has begun with a whole line; frozen blocks never change while text comes.
// Must not know: HTML, the DOM. (References defined below their use resolve only when the text is complete.)

import { Lexer, type Token, type Tokens } from 'marked';
import remend from 'remend';

/** One block, ready to be drawn. */
export type Block =
  | { readonly kind: 'text'; readonly source: string }
  | {
      readonly kind: 'code';
      readonly language: string;
      readonly code: string;
      readonly closed: boolean;
    };

const FENCE_END = /\n[ \t]*(`{3,}|~{3,})[ \t]*\n*$/;

/** The blocks of one text that grows at its end. */
export class BlockStream {
  #frozen: Block[] = [];
  #frozenText = '';

  /**
   * Takes the whole text so far.
   *
   * @param complete whether nothing more will come; then the text is parsed as one, as any other reader would
   * @returns all blocks in order; those that did not change are the same objects as before
   */
  update(text: string, complete: boolean): readonly Block[] {
    if (complete) return this.#completed(text);
    if (!text.startsWith(this.#frozenText)) this.#reset();
    const tokens = this.#freeze(blocksOf(text.slice(this.#frozenText.length)));
    return [...this.#frozen, ...tokens.filter(isBlock).map(growing)];
  }

  /** Freezes what can no longer change and returns the tokens that still can. */
  #freeze(tokens: readonly Token[]): readonly Token[] {
    const last = tokens.findLastIndex(isBlock);
    if (last <= 0 || !tokens[last]?.raw.includes('\n')) return tokens;
    const settled = tokens.slice(0, last);
    this.#frozen = [...this.#frozen, ...settled.filter(isBlock).map(finished)];
    this.#frozenText += settled.map((token) => token.raw).join('');
    return tokens.slice(last);
  }

  #completed(text: string): readonly Block[] {
    const before = this.#frozen;
    const blocks = blocksOf(text).filter(isBlock).map(finished);
    this.#reset();
    return blocks.map((block, at) => {
      const known = before[at];
      return known !== undefined && sameBlock(known, block) ? known : block;
    });
  }

  #reset(): void {
    this.#frozen = [];
    this.#frozenText = '';
  }
}

function blocksOf(text: string): Token[] {
  return new Lexer({ gfm: true }).blockTokens(text, []);
}

function isBlock(token: Token): boolean {
  return token.type !== 'space';
}

function finished(token: Token): Block {
  if (token.type !== 'code') return { kind: 'text', source: token.raw };
  const { lang, text, raw, codeBlockStyle } = token as Tokens.Code;
  const closed = codeBlockStyle === 'indented' || FENCE_END.test(raw);
  return { kind: 'code', language: (lang ?? '').split(/\s/, 1)[0] ?? '', code: text, closed };
}

/** The block that is still being written: what is open in it is closed for the eye. */
function growing(token: Token): Block {
  const block = finished(token);
  return block.kind === 'text' ? { kind: 'text', source: remend(block.source) } : block;
}

function sameBlock(a: Block, b: Block): boolean {
  if (a.kind === 'text') return b.kind === 'text' && a.source === b.source;
  return (
    b.kind === 'code' && a.code === b.code && a.language === b.language && a.closed === b.closed
  );
}
