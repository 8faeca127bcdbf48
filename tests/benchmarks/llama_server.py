"""A real llama-server on loopback, to stand beside a node. A companion.

    python -m tests.benchmarks.llama_server <path of a GGUF>
        [<slots> <context tokens> <threads> [<flash attention>]]

REPLAY_LLAMA_SERVER names the program: one that was built for the machine's GPU, say. Without it
xllamacpp carries one, which only `make bench` installs. It listens and computes on threads of its
own, none of which needs Python.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from deploy.local.ports import any_free
from deploy.local.probes import get
from tests.benchmarks.companion import serve

PACKAGE = "xllamacpp"
PROGRAM = os.environ.get("REPLAY_LLAMA_SERVER", "")
CONTEXT_TOKENS = 4096
AUTO = -1
"""Of flash attention, as llama.cpp numbers it: whether it is used, it finds out itself."""

HOST = "127.0.0.1"
OK = 200
LOAD_MAX_S = 120.0
LOOK_S = 0.1
END_MAX_S = 10.0


def is_installed() -> bool:
    """Whether there is one to start."""
    return bool(PROGRAM) or find_spec(PACKAGE) is not None


@contextmanager
def started(
    path: str,
    slots: int = 1,
    context_tokens: int = CONTEXT_TOKENS,
    threads: int = 1,
    flash_attention: int = AUTO,
) -> Iterator[str]:
    """The URL of a server on a free port of 127.0.0.1; the context is that of a slot.

    With one thread, since two would spin for each other on a busy machine.
    """
    start = _program if PROGRAM else _package
    with start(path, slots, context_tokens, threads, flash_attention) as url:
        yield url


@contextmanager
def _package(
    path: str, slots: int, context_tokens: int, threads: int, flash_attention: int
) -> Iterator[str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = [HOST]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type(flash_attention)
    params.verbosity = 0  # our answers have standard output to themselves
    server = xllamacpp.Server(params)
    yield str(server.listening_address)


@contextmanager
def _program(
    path: str, slots: int, context_tokens: int, threads: int, flash_attention: int
) -> Iterator[str]:
    port = any_free(HOST)
    arguments = {
        "--model": path,
        "--host": HOST,
        "--port": port,
        "--parallel": slots,
        "--ctx-size": slots * context_tokens,
        "--threads": threads,
        "--flash-attn": {AUTO: "auto", 0: "off", 1: "on"}[flash_attention],
    }
    command = [PROGRAM, *(str(word) for pair in arguments.items() for word in pair)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}"
        _wait_loaded(url)
        yield url
    finally:
        running.terminate()
        try:
            running.wait(END_MAX_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_loaded(url: str) -> None:
    """Raises TimeoutError."""
    until_s = time.monotonic() + LOAD_MAX_S
    while time.monotonic() < until_s:
        if get(url, "/health", {})[0] == OK:
            return
        time.sleep(LOOK_S)
    raise TimeoutError(f"{PROGRAM} was not ready within {LOAD_MAX_S:.0f} s")


async def run(path: str, *numbers: str) -> None:
    """Loads the model, then answers."""
    with started(path, *map(int, numbers)) as at:

        async def url() -> str:
            return at

        await serve({"url": url})


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
