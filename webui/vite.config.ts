/// <reference types="vitest/config" />
// The build is a pure function of the sources and the lockfile: relative base (any mount path),
// content hashes only, no timestamps. scripts/stamp.mjs records what it was built from.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// `npm run dev` serves the sources and sends the API's paths to a running node.
const API = process.env['REPLAY_API'] ?? 'http://127.0.0.1:8080';
const API_PATHS = ['/v1', '/props', '/health', '/ready'];

export default defineConfig({
  base: './',
  plugins: [svelte()],
  build: {
    target: 'es2023',
    cssTarget: ['chrome123', 'safari17.5', 'firefox121'],
    modulePreload: { polyfill: false },
    // An inlined font would be a data: address, which a strict content policy refuses.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 300,
  },
  server: { proxy: Object.fromEntries(API_PATHS.map((path) => [path, API])) },
  test: { include: ['tests/unit/**/*.test.ts'], environment: 'node', testTimeout: 90_000 },
});
