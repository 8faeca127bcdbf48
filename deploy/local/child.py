"""One child process: started so that it cannot outlive the launcher, and restarted with patience.

It must not know what the child does. Owner: the launcher's main thread, which alone calls this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.bootstrap import ROOT
from deploy.local.commands import REDIS_TIER, Command

RESTART_FIRST_S = 0.2
RESTART_MAX_S = 5.0
DOUBLINGS_MAX = 10  # more than enough to reach RESTART_MAX_S, and no overflow after a day
STEADY_S = 30.0  # up for so long, a child's earlier deaths are forgotten
LOG_BYTES_MAX = 16 << 20  # a longer log is set aside at the next start, as <name>.log.1
TAIL_LINES = 12
TAIL_BYTES_MAX = 16 << 10
PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start, and how many deaths there were in a row. Pure."""

    deaths: int = 0

    def after_death(self, up_s: float) -> float:
        """Seconds to wait, after a death that followed `up_s` seconds of life."""
        self.deaths = 1 if up_s >= STEADY_S else self.deaths + 1
        doublings = min(self.deaths - 1, DOUBLINGS_MAX)
        return min(RESTART_MAX_S, RESTART_FIRST_S * 2.0**doublings)


def ending(code: int) -> str:
    """How a process ended, from its return code: `exit code 1` or `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def tied_to(parent: int, death_signal: int) -> Callable[[], None] | None:
    """What a new child runs before its program, so that it dies when its parent does (Linux).

    The kernel sends the signal when the *thread* that forked ends, kill -9 included; hence all
    children are started by the main thread.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork it might wait for a lock

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the tie was made
            os._exit(1)

    return tie


def death_signal(command: Command) -> int:
    """What the kernel sends a child whose launcher is gone.

    Redis may write out its file. Nothing else may linger: nodes and workers lose nothing by a kill.
    """
    return signal.SIGTERM if command.tier == REDIS_TIER else signal.SIGKILL


class Child:
    """A command and the process that runs it now, if one does."""

    def __init__(self, command: Command, *, keep_fds: Sequence[int] = ()) -> None:
        self.command = command
        self.restart_at_s: float | None = None
        self._keep_fds = tuple(keep_fds)
        self._running: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._started_s = 0.0
        self._log_from = 0

    def __repr__(self) -> str:
        return f"<Child {self.command.name} pid={self.pid} deaths={self.deaths}>"

    @property
    def pid(self) -> int | None:
        """The process id; None while nothing runs."""
        return self._running.pid if self._running else None

    @property
    def deaths(self) -> int:
        """Deaths in a row."""
        return self._backoff.deaths

    def start(self, now_s: float) -> None:
        """Starts the process. Raises OSError when there is no such program or no room."""
        command = self.command
        self.restart_at_s = None
        self._started_s = now_s
        self._log_from = make_room(command.log)
        with command.log.open("ab") as log:
            self._running = subprocess.Popen(
                command.argv,
                cwd=ROOT,  # where `-m api` is found, and what relative settings are relative to
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **command.environment},
                pass_fds=self._keep_fds,
                # Else a terminal's Ctrl-C would reach the children as well, Redis first of all.
                start_new_session=True,
                preexec_fn=tied_to(os.getpid(), death_signal(command)),
            )

    def reap(self, now_s: float) -> int | None:
        """The return code, once, if the process has ended; then a time to restart is set."""
        code = self._running.poll() if self._running else None
        if code is not None:
            self._running = None
            self.restart_at_s = now_s + self._backoff.after_death(now_s - self._started_s)
        return code

    def postpone(self, now_s: float) -> None:
        """Sets the next try to start, after one that failed."""
        self.restart_at_s = now_s + RESTART_MAX_S

    def send(self, number: int) -> None:
        """Sends a signal, if the process runs."""
        if self._running:
            self._running.send_signal(number)

    def last_words(self) -> list[str]:
        """The last lines that this run of the child wrote into its log."""
        with self.command.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_from, size - TAIL_BYTES_MAX))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]


def make_room(log: Path) -> int:
    """Sets a log aside that has grown too long; the size of what is there now, in bytes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_BYTES_MAX:
        return size
    log.replace(log.with_name(log.name + ".1"))
    return 0
