// The budget of the bundle. What the first page load needs is counted compressed, as it travels.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const KB = 1024;
const BUDGET_KB = { 'initial JS, gzip': 90, 'CSS, gzip': 12, 'HTML, gzip': 4, 'whole dist': 1200 };

const html = readFileSync(join(DIST, 'index.html'), 'utf8');
const linked = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map((match) => match[1]);
const gzipped = (name) => gzipSync(readFileSync(join(DIST, name)), { level: 9 }).length;
const sum = (names, size) => names.reduce((total, name) => total + size(name), 0) / KB;

const all = readdirSync(DIST, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name));
const measured_kb = {
  'initial JS, gzip': sum(
    linked.filter((name) => name.endsWith('.js')),
    gzipped,
  ),
  'CSS, gzip': sum(
    linked.filter((name) => name.endsWith('.css')),
    gzipped,
  ),
  'HTML, gzip': gzipped('index.html') / KB,
  'whole dist': sum(all, (path) => statSync(path).size),
};

for (const [part, limit_kb] of Object.entries(BUDGET_KB)) {
  const over = measured_kb[part] > limit_kb;
  if (over) process.exitCode = 1;
  console.log(
    `${over ? 'OVER ' : '     '}${part}: ${measured_kb[part].toFixed(1)} of ${limit_kb} KB`,
  );
}
