// Opens storage, shows what is stored, and only then talks to the network.

import './app.css';
import { mount } from 'svelte';
import App from './App.svelte';
import { activity } from './state/activity.svelte.ts';
import { connection } from './state/connection.svelte.ts';
import { context, openContext } from './state/context.ts';
import { conversations } from './state/conversations.svelte.ts';
import { sessions } from './state/sessions.svelte.ts';
import { stops } from './state/stops.svelte.ts';

async function main(target: HTMLElement): Promise<void> {
  try {
    await openContext();
  } catch {
    target.textContent =
      'This browser refuses storage for this page, and replies could not be kept.';
    return;
  }
  await conversations.load();
  mount(App, { target });
  listen();
  connection.start();
  await Promise.all([stops.start(), activity.start()]);
}

function listen(): void {
  window.addEventListener('pagehide', () => sessions.checkpointAll());
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) sessions.checkpointAll();
  });
  context().tabs.listen(({ conversation }) => void onNotice(conversation));
}

/** Another tab changed a conversation: take over what it stored, and its live reply if it is on the screen here. */
async function onNotice(conversation: string): Promise<void> {
  await conversations.load();
  if (conversation === conversations.openId && !sessions.live.has(conversation)) {
    await conversations.reloadMessages();
    await sessions.follow(conversation);
  }
  await activity.look();
}

const target = document.getElementById('app');
if (target !== null) void main(target);
