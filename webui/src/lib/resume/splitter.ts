// Cuts a response body into SSE records at the byte level.
// A record is a run of lines closed by an empty one. Text is decoded only when a record is whole, so a
// network chunk that ends inside a character cannot shift the count of bytes.
// Must not know: what the records say, where the bytes come from, who counts them.

const LF = 0x0a;
const CR = 0x0d;
const BOM = '\uFEFF';

/** One whole record of the body. */
export interface StreamRecord {
  /** Joined `data` lines, or null when the record had none (a ping, a notice). */
  readonly data: string | null;
  /** Text of the comment lines, without the colon. */
  readonly comments: readonly string[];
  /** Body bytes this record took, its closing empty line included. */
  readonly bytes: number;
}

/** Splits bytes that arrive in arbitrary cuts; keeps an unfinished record until the rest of it comes. */
export class RecordSplitter {
  #pending: Uint8Array = new Uint8Array(0);
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });

  /** Bytes held back because their record is not finished yet. */
  get pendingBytes(): number {
    return this.#pending.length;
  }

  /** Takes the next bytes of the body and returns the records they finished, in order. */
  push(chunk: Uint8Array): StreamRecord[] {
    const bytes = join(this.#pending, chunk);
    const records: StreamRecord[] = [];
    let recordStart = 0;
    let lineStart = 0;
    for (let at = bytes.indexOf(LF); at !== -1; at = bytes.indexOf(LF, lineStart)) {
      const blank = at === lineStart || (at === lineStart + 1 && bytes[lineStart] === CR);
      lineStart = at + 1;
      if (!blank) continue;
      records.push(this.#record(bytes.subarray(recordStart, lineStart)));
      recordStart = lineStart;
    }
    this.#pending = bytes.slice(recordStart);
    return records;
  }

  #record(bytes: Uint8Array): StreamRecord {
    const data: string[] = [];
    const comments: string[] = [];
    for (const raw of this.#decoder.decode(bytes).split('\n')) {
      const line = (raw.startsWith(BOM) ? raw.slice(1) : raw).replace(/\r$/, '');
      if (line.startsWith(':')) comments.push(line.slice(1).trim());
      else if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
    return { data: data.length > 0 ? data.join('\n') : null, comments, bytes: bytes.length };
  }
}

function join(head: Uint8Array, tail: Uint8Array): Uint8Array {
  if (head.length === 0) return tail;
  const whole = new Uint8Array(head.length + tail.length);
  whole.set(head);
  whole.set(tail, head.length);
  return whole;
}
