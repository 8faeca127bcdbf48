"""A second process of a benchmark, asked and answering in lines of JSON.

The load, the floors and what is measured each have a process of their own, so that the CPU time of
one is not the other's. Both ends stand here: ``Companion`` asks, ``serve`` answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from deploy.bootstrap import ROOT

ANSWER_MAX_S = 60.0
END_MAX_S = 10.0
LINE_BYTES_MAX = 16 * 1024 * 1024
READ_BYTES = 1 << 16

Answers = Mapping[str, Callable[..., Awaitable[Any]]]


class CompanionFailed(Exception):
    """A companion ended, or did not answer in time."""


class Companion:
    """``python -m tests.benchmarks.<module>``, for as long as the block runs."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        answer_max_s: float = ANSWER_MAX_S,
        **environment: str,
    ) -> None:
        self.module = module
        self._answer_max_s = answer_max_s
        self._running = subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self._buffer = b""

    def __enter__(self) -> Companion:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._running.stdin is not None and self._running.stdout is not None
        self._running.stdin.close()
        try:
            self._running.wait(END_MAX_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running.stdout.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    def ask(self, question: str, **arguments: Any) -> Any:
        """Its answer. Raises CompanionFailed."""
        stdin = self._running.stdin
        assert stdin is not None
        stdin.write(json.dumps({"ask": question, **arguments}).encode() + b"\n")
        stdin.flush()
        return json.loads(self._line(question))

    def _line(self, question: str) -> bytes:
        until_s = time.monotonic() + self._answer_max_s
        stdout = self._running.stdout
        assert stdout is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([stdout], [], [], max(0.0, until_s - time.monotonic()))
            data = os.read(stdout.fileno(), READ_BYTES) if ready else b""
            if not data:
                raise CompanionFailed(f"{self.module} did not answer {question!r}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line


async def serve(answers: Answers) -> None:
    """Answers until the other end closes."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        answer = await answers[asked.pop("ask")](**asked)
        print(json.dumps(answer), flush=True)
