// Writes dist/BUILD.json: what the bundle was built from and what it consists of. No time, no machine, so that
// the same sources give the same bytes everywhere. tests/webui/test_bundle.py checks it without Node.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join, relative } from 'node:path';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SOURCE_FILES = [
  'index.html',
  'package.json',
  'svelte.config.js',
  'tsconfig.json',
  'vite.config.ts',
];
const SOURCE_FOLDERS = ['public', 'scripts', 'src'];
const TOOLS = ['@sveltejs/vite-plugin-svelte', 'rolldown', 'svelte', 'typescript', 'vite'];

const sha256 = (path) => createHash('sha256').update(readFileSync(path)).digest('hex');

function hashesOf(paths) {
  const names = paths.map((path) => relative(ROOT, path).replaceAll('\\', '/')).sort();
  return Object.fromEntries(names.map((name) => [name, sha256(join(ROOT, name))]));
}

function filesUnder(folder) {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== 'BUILD.json')
    .map((entry) => join(entry.parentPath, entry.name));
}

const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
const stamp = {
  sources: hashesOf([
    ...SOURCE_FILES.map((name) => join(ROOT, name)),
    ...SOURCE_FOLDERS.flatMap(filesUnder),
  ]),
  lockfile: sha256(join(ROOT, 'package-lock.json')),
  tools: Object.fromEntries(
    TOOLS.map((name) => [name, lock.packages[`node_modules/${name}`]?.version ?? null]),
  ),
  files: hashesOf(filesUnder('dist')),
};
writeFileSync(join(ROOT, 'dist/BUILD.json'), `${JSON.stringify(stamp, null, 2)}\n`);
