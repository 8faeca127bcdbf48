"""The launcher with tiny servers in the place of nodes and workers; run by test_launcher.

`stub_cluster.py [launcher's arguments]` runs the launcher; `stub_cluster.py --node PORT` is a node
and `stub_cluster.py --worker` a worker. STUB_TROUBLE: `dies` ends a worker at once with a message,
`deaf` makes a node ignore SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from redis import Redis

from deploy.local.arguments import Options, parse
from deploy.local.commands import Command, cluster_commands
from deploy.local.launcher import launch
from replay import keys
from replay.cluster import ModelRecord, WorkerRecord

MODELS = b'{"data":[{"id":"stub","status":{"value":"loaded"}}]}'


class Node(BaseHTTPRequestHandler):
    """Ready at once, with one model loaded."""

    def do_GET(self) -> None:
        """Answers /ready and /v1/models alike: 200 and the list of models."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(MODELS)))
        self.end_headers()
        self.wfile.write(MODELS)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the log is for what goes wrong."""


def stub_commands(options: Options, redis_url: str) -> list[Command]:
    """The real commands with these stubs' command lines."""
    return [
        replace(command, argv=(sys.executable, __file__, *stub_arguments(command)))
        for command in cluster_commands(options, redis_url)
    ]


def stub_arguments(command: Command) -> list[str]:
    """Which stub stands for a command."""
    port = command.environment.get("REPLAY_PORT")
    return ["--node", port] if port else ["--worker"]


def announce() -> None:
    """Writes a worker's record, as a heartbeat does, for once and for all."""
    name, model = os.environ["REPLAY_WORKER"], ModelRecord("stub", "loaded")
    record = WorkerRecord(name, "here", os.getpid(), 0, "stub", (model,))
    with Redis.from_url(os.environ["REPLAY_REDIS_URL"]) as redis:
        redis.set(keys.worker(name), record.to_json())


def main(argv: list[str]) -> int:
    """Runs what the arguments ask for."""
    trouble = os.environ.get("STUB_TROUBLE")
    if argv[:1] == ["--worker"]:
        if trouble == "dies":
            sys.exit("stub: there is no such model")
        announce()
        signal.pause()
    if argv[:1] == ["--node"]:
        if trouble == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ThreadingHTTPServer(("127.0.0.1", int(argv[1])), Node).serve_forever()
    return launch(parse(argv, {"REPLAY_ENGINE": "scripted"}), stub_commands)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
