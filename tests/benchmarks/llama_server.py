"""A real llama-server on loopback, to stand beside a node. A companion.

    python -m tests.benchmarks.llama_server <path of a GGUF>
        [<slots> <context tokens> <threads> [<flash attention>]]

xllamacpp carries it, which only `make bench` installs. It listens and computes on threads of its
own, none of which needs Python.
"""

from __future__ import annotations

import asyncio
import sys

import xllamacpp

from tests.benchmarks.companion import serve

CONTEXT_TOKENS = 4096
AUTO = -1
"""Of flash attention, as llama.cpp numbers it: whether it is used, it finds out itself."""


def started(
    path: str,
    slots: int = 1,
    context_tokens: int = CONTEXT_TOKENS,
    threads: int = 1,
    flash_attention: int = AUTO,
) -> xllamacpp.Server:
    """A server on a free port of 127.0.0.1; the context is that of a slot.

    With one thread, since two would spin for each other on a busy machine.
    """
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type(flash_attention)
    params.verbosity = 0  # our answers have standard output to themselves
    return xllamacpp.Server(params)


async def run(path: str, *numbers: str) -> None:
    """Loads the model, then answers."""
    server = started(path, *map(int, numbers))

    async def url() -> str:
        return str(server.listening_address)

    await serve({"url": url})


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
