// `npm run mock`: the built page with a scripted node behind it, for looking at it without a cluster.
import { fileURLToPath } from 'node:url';
import { MockNode } from './node.mjs';
import { SHOWCASE } from './scripts.mjs';

const PORT = Number(process.env.PORT ?? 8090);
const node = new MockNode({
  reply: SHOWCASE,
  entry_ms: Number(process.env.ENTRY_MS ?? 60),
  key: process.env.KEY ?? null,
  dist: fileURLToPath(new URL('../../dist', import.meta.url)),
});
process.stdout.write(`${await node.listen(PORT)}\n`);

// One letter a line on stdin plays a fault: r resets every open socket.
process.stdin.on('data', (line) => {
  if (String(line).startsWith('r')) node.server.closeAllConnections();
});
