"""The life of one cluster: check, start, wait until it is ready, tend it, stop it. One screen each.

Everything happens in the main thread, which waits at one place for signals and time.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploy.bootstrap import SetupFailed, check_disk
from deploy.local import redis_server
from deploy.local.arguments import Options
from deploy.local.commands import SERVER_TIER, Commands, cluster_commands, front_url, node_names
from deploy.local.errors import LaunchFailed
from deploy.local.ports import any_free, check_free, free_block, is_free, wanted_ports
from deploy.local.probes import nodes_are_ready, workers_are_ready
from deploy.local.signal_pipe import SignalPipe
from deploy.local.state_file import describe, locked_state, redis_port_before, write_state
from deploy.local.supervisor import Supervisor
from replay.redis_url import check_planes

STATE_BYTES = 100_000_000  # room for logs and Redis's file, below which no start is tried
LOOK_S = 0.05  # between looks at something that is about to be ready
WORD_S = 15.0  # between words to a person who waits for the start
IDLE_S = 60.0  # between looks when nothing is due; a signal wakes it at once


def say(line: str) -> None:
    """One line for the person at the terminal, if there still is one."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The reader of our output went away, which is no reason to stop serving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Launcher:
    """A cluster from its first child to its last. Lives in the main thread, in one `with` block."""

    def __init__(self, options: Options, signals: SignalPipe, lock: int) -> None:
        self._options = options
        self._signals = signals
        self._supervisor = Supervisor(signals, say, restart=options.restart, keep_fds=[lock])
        self._redis_url = options.redis_url or ""
        self._ready = False
        self._next_word_s = time.monotonic() + WORD_S

    def run(self, commands: Commands, began_s: float) -> None:
        """Starts everything and tends it until a stop signal comes; then ends everything."""
        try:
            if self._start_redis() and self._start_servers(commands):
                self._greet(began_s)
                self._tend_until(lambda: False)
        finally:
            self._stop()

    def _stop(self) -> None:
        if not self._supervisor.children:
            return
        say("stopping")
        self._supervisor.stop()
        self._ready = False
        self._write_state()
        say("stopped")

    def _start_redis(self) -> bool:
        options = self._options
        if options.redis_url:
            redis_server.check_url(options.redis_url)
            return True
        program = redis_server.find_program()
        before = redis_port_before(options.state_dir)
        host = redis_server.LOOPBACK
        port = before if before and is_free(host, before) else any_free(host)
        redis_server.make_data_folder(options)
        command = redis_server.redis_command(options, program, port)
        self._redis_url = command.url or ""
        say(f"redis     {program}")
        self._supervisor.start(command)
        return self._tend_until(lambda: redis_server.answers(port))

    def _start_servers(self, commands: Commands) -> bool:
        for command in commands(self._options, self._redis_url):
            self._supervisor.start(command)
        return self._tend_until(self._look_ready)

    def _tend_until(self, condition: Callable[[], bool]) -> bool:
        """Tends the children until the condition holds; False when a stop signal came first."""
        self._write_state()
        while not condition():
            waits = [IDLE_S if self._supervisor.patient and self._ready else LOOK_S]
            if (restart_s := self._supervisor.next_restart_s()) is not None:
                waits.append(restart_s)
            if self._signals.wait(min(waits)):
                return False
            self._look_around()
        return True

    def _look_around(self) -> None:
        """One turn: what has died, what is due, and whether all is well again."""
        changed = self._supervisor.tend()
        ready = self._ready and not changed
        if self._supervisor.patient and not ready:
            ready = self._all_ready()
        if ready and not self._ready:
            say("ready again")
        if changed or ready != self._ready:
            self._ready = ready
            self._write_state()

    def _look_ready(self) -> bool:
        self._ready = self._all_ready()
        if self._ready:
            self._supervisor.patient = True
            self._write_state()
        elif (now_s := time.monotonic()) > self._next_word_s:
            self._next_word_s = now_s + WORD_S
            say(f"not ready yet; the logs are in {self._options.state_dir / 'log'}")
        return self._ready

    def _all_ready(self) -> bool:
        children = self._supervisor.children
        if any(child.pid is None for child in children):
            return False
        servers = [child for child in children if child.command.tier == SERVER_TIER]
        workers = {child.command.name: child.pid for child in servers if not child.command.url}
        # In a Redis that we were given another launcher may have workers of the same names.
        if not self._options.redis_url and not workers_are_ready(self._redis_url, workers):
            return False
        return nodes_are_ready(
            [child.command.url for child in servers if child.command.url],
            needs_model=bool(workers),
            api_key=some_key(),
        )

    def _write_state(self) -> None:
        state = describe(
            self._supervisor.children,
            front=front_url(self._options),
            redis_url=self._redis_url,
            ready=self._ready,
        )
        try:
            write_state(self._options.state_dir, state)
        except OSError as error:  # a full disk is no reason to stop what runs
            say(f"cannot write cluster.json: {error}")

    def _greet(self, began_s: float) -> None:
        options = self._options
        say(f"ready in {time.monotonic() - began_s:.1f} s")
        say(greeting(options))


def some_key() -> str:
    """A key that the nodes take, from where they have theirs; "" where there is none."""
    if plain := os.environ.get("REPLAY_API_KEYS", "").split(",")[0].strip():
        return plain
    if not (file := os.environ.get("REPLAY_API_KEYS_FILE")):
        return ""
    lines = (line.strip() for line in Path(file).read_text("utf-8").splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return re.split(r"\s+(?:tenant|scopes)=", first)[0]


def greeting(options: Options) -> str:
    """The address, and two curl lines to paste: an answer, and the same bytes again."""
    url = front_url(options)
    model = options.models[0].partition("=")[0]
    key = ""
    if os.environ.get("REPLAY_API_KEYS"):
        key = ' -H "Authorization: Bearer ${REPLAY_API_KEYS%%,*}"'
    question = '"messages":[{"role":"user","content":"Why is the sky blue?"}]'
    return f"""
  {url}

  curl -N {url}/v1/chat/completions{key} \\
    -H 'Content-Type: application/json' -H 'X-Conversation-Id: first' \\
    -d '{{"model":"{model}","stream":true,{question}}}'

  Its bytes again, from any offset, on any node:
  curl -N '{url}/v1/stream?conv_id=first&from=0'{key}

  Logs are in {options.state_dir / "log"}. Ctrl-C stops everything.
"""


def with_ports(options: Options) -> Options:
    """The options with a real front port, after a check that it and the nodes' ports are free."""
    names = node_names(options)
    if options.port == 0:
        return replace(options, port=free_block(options.host, len(names) + 1))
    check_free(options.host, wanted_ports(options.port, names))
    return options


def check_models(options: Options) -> None:
    """Raises LaunchFailed when a model to be loaded is not there."""
    if options.engine != "llama" or options.workers == 0:
        return
    for entry in options.models:
        name, _, path = entry.partition("=")
        if not Path(path).is_file():
            raise LaunchFailed(f"no model {name} at {path}; the default one comes with: make setup")


def check_urls(options: Options) -> None:
    """Raises LaunchFailed when a Redis is named by a URL that nodes and workers would refuse."""
    embedded = f"redis://{redis_server.LOOPBACK}"
    try:
        check_planes(options.redis_url or embedded, os.environ.get("REPLAY_QUEUE_REDIS_URL"))
    except ValueError as error:
        raise LaunchFailed(str(error)) from None


def launch(options: Options, commands: Commands = cluster_commands) -> int:
    """Runs one cluster until it is told to stop; the exit status.

    `commands` says how nodes and workers are started. Everything that can keep a cluster from
    starting is one line on stderr and status 1.
    """
    began_s = time.monotonic()
    try:
        check_models(options)
        check_urls(options)
        options = with_ports(options)
        with locked_state(options.state_dir) as lock, SignalPipe() as signals:
            check_disk(options.state_dir, STATE_BYTES)
            Launcher(options, signals, lock).run(commands, began_s)
    except (LaunchFailed, SetupFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
