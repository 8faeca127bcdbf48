"""A cluster in a launcher of its own, as a block of code: what tests of real processes start.

    with Cluster(tmp_path, "--api-nodes", "3", "--engine", "scripted") as cluster:
        httpx.get(cluster.nodes[0] + "/health")
        cluster.kill("api-1")

All it knows it reads from the launcher's `cluster.json` and output.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.bootstrap import ROOT
from deploy.local.state_file import read_state

READY_MAX_S = 60.0
STOP_MAX_S = 20.0  # what the launcher promises, four times: machines are busy
LOOK_S = 0.02
LAUNCHER = (sys.executable, "-m", "deploy.local")


class ClusterFailed(Exception):
    """The cluster did not become what was waited for; the text ends with the launcher's output."""


class Cluster:
    """One cluster on free ports, all its files in `state_dir`; use `with`, or `start` and `stop`.

    `arguments` go to the launcher, `environment` is added to this process's own.
    """

    def __init__(
        self,
        state_dir: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = LAUNCHER,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self._argv = [*launcher, "--port", "0", "--state-dir", str(self.state_dir), *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._launcher: subprocess.Popen[bytes] | None = None
        self._output = self.state_dir / "launcher.log"

    def __enter__(self) -> Cluster:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Cluster {self.state_dir} launcher={self.launcher_pid}>"

    def start(self) -> None:
        """Starts the launcher; the cluster is ready some time later."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as output:
            self._launcher = subprocess.Popen(
                self._argv, cwd=ROOT, stdout=output, stderr=output, env=self._environment
            )

    def wait_ready(self, timeout_s: float = READY_MAX_S) -> None:
        """Waits until every child runs and is ready; ClusterFailed when that is not to be."""
        self.wait_for(lambda state: bool(state["ready"]), timeout_s)

    def wait_for(
        self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = READY_MAX_S
    ) -> dict[str, Any]:
        """The first state of this launcher (see `state_file`) for which the condition holds.

        ClusterFailed when the launcher ends or the time is up before.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            state = self.state
            if state.get("launcher") == self.launcher_pid and condition(state):
                return state
            if self._launcher is None or self._launcher.poll() is not None:
                raise ClusterFailed(f"the launcher ended\n{self.output}")
            time.sleep(LOOK_S)
        raise ClusterFailed(f"not within {timeout_s:.0f} s: {self.state}\n{self.output}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks the launcher to stop and waits; its exit status, 0 when all ended as it should."""
        if self._launcher is None:
            return 0
        if self._launcher.poll() is None:
            self._launcher.send_signal(number)
        try:
            return self._launcher.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
            raise ClusterFailed(f"did not stop within {STOP_MAX_S:.0f} s\n{self.output}") from None

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to `redis` or to a node or worker by name; the pid that got it."""
        pid = self.pids[name]
        if pid is None:
            raise ClusterFailed(f"{name} does not run")
        os.kill(pid, number)
        return pid

    @property
    def state(self) -> dict[str, Any]:
        """The launcher's last words about who runs where, as `state_file` describes them."""
        return read_state(self.state_dir)

    @property
    def output(self) -> str:
        """All that the launcher has printed."""
        return self._output.read_text() if self._output.exists() else ""

    @property
    def launcher_pid(self) -> int | None:
        """The launcher's process id."""
        return self._launcher.pid if self._launcher else None

    @property
    def front(self) -> str:
        """The URL that all nodes share."""
        return str(self.state["front"])

    @property
    def nodes(self) -> list[str]:
        """Each node's own URL."""
        return [node["url"] for node in self.state["nodes"]]

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return str(self.state["redis"]["url"])

    @property
    def pids(self) -> dict[str, int | None]:
        """Process ids by name; None for one that is dead and not yet started again."""
        state = self.state
        named = {child["name"]: child["pid"] for child in state["nodes"] + state["workers"]}
        return {"redis": state["redis"]["pid"], **named}
