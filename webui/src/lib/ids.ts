// Names of things: row ids, and the id under which a conversation's sessions live on the server.

const BYTES = 16;

/** A random UUID; pages served over plain HTTP from another machine have no `crypto.randomUUID`. */
export function newId(): string {
  if (typeof crypto.randomUUID === 'function') return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(BYTES));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** The server's name of a conversation: the model is frozen into it when the message is sent. */
export function streamId(conversation: string, model: string | null): string {
  return model === null ? conversation : `${conversation}::${model}`;
}

/** The conversation a stream id belongs to. */
export function conversationOf(id: string): string {
  return id.split('::', 1)[0] ?? id;
}
