"""Keeps the children running: starts, reaps, restarts, and ends them tier by tier.

Owner: the launcher's main thread. It must not know what the children are, beyond their commands.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from deploy.local.child import Child, ending
from deploy.local.commands import REDIS_TIER, Command
from deploy.local.errors import LaunchFailed
from deploy.local.signal_pipe import SignalPipe

# Ctrl-C ends everything within 5 s: nodes and workers have until the first, Redis until the second.
SERVERS_GRACE_S = 3.5
REDIS_GRACE_S = 4.5

DEATHS_BEFORE_WORDS = 2  # in a row, and a child's last lines are shown
DEATHS_BEFORE_READY_MAX = 5  # in a row, and a cluster that never was ready gives up


class Supervisor:
    """All children of one launcher."""

    def __init__(
        self,
        signals: SignalPipe,
        say: Callable[[str], None],
        *,
        restart: bool = True,
        keep_fds: Sequence[int] = (),
    ) -> None:
        self.children: list[Child] = []
        self.patient = False
        """Whether a child may die as often as it likes: True once the cluster has been ready."""
        self._signals = signals
        self._say = say
        self._restart = restart
        self._keep_fds = keep_fds

    def start(self, command: Command) -> Child:
        """Starts one more child and says so; LaunchFailed when its program cannot be run."""
        child = Child(command, keep_fds=self._keep_fds)
        self.children.append(child)
        try:
            self._launch(child)
        except OSError as error:
            raise LaunchFailed(f"{command.name} cannot be started: {error}") from error
        return child

    def tend(self) -> bool:
        """Reaps what has died and restarts what is due; True when a child came or went.

        LaunchFailed when a child keeps dying before the cluster was ever ready.
        """
        now_s = time.monotonic()
        dead = [(child, child.reap(now_s)) for child in self.children]
        dead = [(child, code) for child, code in dead if code is not None]
        for child, code in dead:
            self._mourn(child, code or 0, now_s)
        due = [child for child in self.children if self._is_due(child, now_s)]
        for child in due:
            self._relaunch(child)
        return bool(dead or due)

    def next_restart_s(self) -> float | None:
        """Seconds until a restart is due; None when none is."""
        if not self._restart:
            return None
        times = [child.restart_at_s for child in self.children if child.restart_at_s is not None]
        return min(times) - time.monotonic() if times else None

    def stop(self) -> None:
        """Ends every child: nodes and workers, then Redis; within REDIS_GRACE_S and a moment."""
        began_s = time.monotonic()
        for tier in sorted({child.command.tier for child in self.children}, reverse=True):
            grace_s = REDIS_GRACE_S if tier == REDIS_TIER else SERVERS_GRACE_S
            self._stop_tier(tier, began_s + grace_s)

    def _launch(self, child: Child) -> None:
        child.start(time.monotonic())
        url = f", {child.command.url}" if child.command.url else ""
        self._say(f"{child.command.name:<9} started, pid {child.pid}{url}")

    def _relaunch(self, child: Child) -> None:
        try:
            self._launch(child)
        except OSError as error:  # perhaps a full disk; the others go on, and so do the tries
            self._say(f"{child.command.name:<9} cannot be started: {error}")
            child.postpone(time.monotonic())

    def _is_due(self, child: Child, now_s: float) -> bool:
        at_s = child.restart_at_s
        return self._restart and at_s is not None and at_s <= now_s

    def _mourn(self, child: Child, code: int, now_s: float) -> None:
        name = child.command.name
        wait_s = (child.restart_at_s or now_s) - now_s
        then = f", starts again in {wait_s:.1f} s" if self._restart else ""
        self._say(f"{name:<9} died ({ending(code)}){then}")
        if child.deaths == DEATHS_BEFORE_WORDS or not self._restart:
            for line in child.last_words():
                self._say(f"          | {line}")
        if child.deaths >= DEATHS_BEFORE_READY_MAX and not self.patient:
            raise LaunchFailed(
                f"{name} died {child.deaths} times before it was ready; see {child.command.log}"
            )

    def _stop_tier(self, tier: int, until_s: float) -> None:
        children = [child for child in self.children if child.command.tier == tier]
        for child in children:
            child.send(signal.SIGTERM)
        while self._alive(children) and (left_s := until_s - time.monotonic()) > 0:
            if self._signals.wait(left_s):
                break  # asked a second time: no more patience
        for child in self._alive(children):
            self._say(f"{child.command.name:<9} did not end in time and is killed")
            child.send(signal.SIGKILL)
        while self._alive(children):
            self._signals.wait(until_s)

    def _alive(self, children: Sequence[Child]) -> list[Child]:
        now_s = time.monotonic()
        for child in children:
            child.reap(now_s)
        return [child for child in children if child.pid is not None]
