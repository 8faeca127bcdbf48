"""The engine on a GPU: that its answers are right, and how fast it is beside llama-server.

    python -m pytest tests/gpu -s

REPLAY_GPU_MODEL names another GGUF than the default one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_recorder import Recorder, recording

from inference_worker.engine import SequenceSpec
from inference_worker.hardware import Hardware
from replay.request import SamplingParams

WIDTHS = (1, 8, 32, 64)
CONTEXT_TOKENS = 1024
ANSWER_TOKENS = 64
ALIKE_TOKENS = 8
"""Greedy tokens that a GPU and a CPU surely share; then rounding may decide."""

WORDS = "Tell me a story about a lighthouse, a bicycle and {}."
TIMEOUT_S = 300.0

pytestmark = pytest.mark.timeout(600)


def opened(model_file: Path, *, gpu_layers: int) -> Any:
    """An engine with as many slots as the widest run."""
    from inference_worker.llama_engine import LlamaSettings, open_llama_engine

    return open_llama_engine(
        LlamaSettings(
            model_file,
            "gpu",
            slots=max(WIDTHS),
            context_tokens=CONTEXT_TOKENS,
            prefill_chunk_tokens=512,
            hardware=Hardware(gpu_layers=gpu_layers),
        )
    )


@pytest.fixture(scope="module")
def gpu(model_file: Path) -> Iterator[Recorder]:
    with recording(opened(model_file, gpu_layers=-1)) as recorder:
        yield recorder


def specs(recorder: Recorder, count: int, **options: Any) -> list[SequenceSpec]:
    """Greedy answers of a fixed length, each to a prompt of its own."""
    sampling = SamplingParams(seed=1, temperature=0, ignore_eos=True)
    messages = [[{"role": "user", "content": WORDS.format(number)}] for number in range(count)]
    return [
        SequenceSpec(
            str(number),
            tuple(recorder.engine.prompt_tokens(one)),
            sampling=sampling,
            max_tokens=ANSWER_TOKENS,
            **options,
        )
        for number, one in enumerate(messages)
    ]


def test_a_sequence_samples_among_others_what_it_samples_alone(gpu: Recorder) -> None:
    asked = specs(gpu, 8)
    together = gpu.run(*asked)
    for spec, tokens in zip(asked, together, strict=True):
        assert gpu.run(spec) == [tokens]


def test_a_takeover_goes_on_as_it_would_have(gpu: Recorder) -> None:
    [spec] = specs(gpu, 1)
    [whole] = gpu.run(spec)
    for cut in (1, 7, ANSWER_TOKENS - 1):
        [rest] = gpu.run(replace(spec, sampled=whole[:cut]))
        assert whole[:cut] + rest == whole


def test_answers_begin_as_a_cpus_do(gpu: Recorder, model_file: Path) -> None:
    asked = specs(gpu, 4)
    ours = gpu.run(*asked)
    with recording(opened(model_file, gpu_layers=0)) as cpu:
        theirs = cpu.run(*asked)
    assert [one[:ALIKE_TOKENS] for one in ours] == [one[:ALIKE_TOKENS] for one in theirs]


def test_tokens_per_second_beside_llama_server(gpu: Recorder, model_file: Path) -> None:
    pytest.importorskip("xllamacpp", reason="no GPU comparison: `make bench` installs xllamacpp")
    asked = specs(gpu, max(WIDTHS))
    gpu.run(*asked)  # warms up
    ours = {}
    for width in WIDTHS:
        began = time.perf_counter()
        gpu.run(*asked[:width])
        ours[width] = width * ANSWER_TOKENS / (time.perf_counter() - began)
    theirs = asyncio.run(llama_server(model_file))
    print("\n| sequences | tokens/s | llama-server | ratio |\n| --- | --- | --- | --- |")
    for width in WIDTHS:
        ratio = ours[width] / theirs[width]
        print(f"| {width} | {ours[width]:.0f} | {theirs[width]:.0f} | {ratio:.2f} |")
    assert ours[8] > ours[1]


async def llama_server(model_file: Path) -> dict[int, float]:
    """Tokens per second of a real llama-server with the same prompts, by width."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = max(WIDTHS)
    params.n_ctx = max(WIDTHS) * CONTEXT_TOKENS
    params.n_gpu_layers = -1
    params.verbosity = 0
    server = xllamacpp.Server(params)
    async with httpx.AsyncClient(base_url=server.listening_address, timeout=TIMEOUT_S) as http:
        await answers(http, max(WIDTHS))  # warms up
        return {width: await answers(http, width) for width in WIDTHS}


async def answers(http: httpx.AsyncClient, width: int) -> float:
    """Tokens per second of so many answers at once."""

    async def answer(number: int) -> int:
        content = WORDS.format(number)
        asked = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
        }
        response = await http.post("/v1/chat/completions", json=asked)
        return int(response.raise_for_status().json()["usage"]["completion_tokens"])

    began = time.perf_counter()
    tokens = await asyncio.gather(*map(answer, range(width)))
    return sum(tokens) / (time.perf_counter() - began)
