"""Sends requests, many at once, and says which of them broke something."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.bootstrap import MODEL, models_dir
from deploy.local.cluster import Cluster

from .requests import Asked, request_of

AT_ONCE = 8
REQUEST_TIMEOUT_S = 120.0
ALLOWED = frozenset({200, 400, 409, 501})
"""A client's mistake is one of these; what else there is, is ours."""

ERROR_EVENT = re.compile(r'^(?:event: error|data: \{"error":)', re.MULTILINE)


OURS = {
    "REPLAY_API_KEYS": "",
    "REPLAY_REDIS_URL": "",
    "REPLAY_MODELS": "",
    "REPLAY_PREPARE_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
}
"""Not what the person who runs this may have set for a cluster of their own; a busy machine's 503
is no defect, so there is none."""


def real_cluster(folder: Path) -> Cluster:
    """Two nodes and a worker with the default model, not yet started."""
    model = str(models_dir() / f"{MODEL}.gguf")
    return Cluster(folder, "--engine", "llama", "--model", model, environment=OURS)


@dataclass(slots=True)
class Findings:
    """How often which status came, and what broke: the number of the request and why."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)


async def run(urls: Sequence[str], seed: int, numbers: Iterable[int]) -> Findings:
    """Sends these requests to the nodes in turn."""
    findings, left = Findings(), iter(numbers)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S) as http:

        async def take() -> None:
            for number in left:
                url, asked = urls[number % len(urls)], request_of(seed, number)
                try:
                    status, problem = await _sent(http, url, asked)
                except httpx.HTTPError as error:
                    status, problem = 0, repr(error)
                findings.statuses[status] += 1
                if problem:
                    findings.broken.append((number, problem))

        await asyncio.gather(*(take() for _ in range(AT_ONCE)))
    return findings


async def _sent(http: httpx.AsyncClient, url: str, asked: Asked) -> tuple[int, str]:
    """The status, and what is wrong with the answer; "" where nothing is."""
    async with http.stream(
        "POST", url + asked.path, json=asked.body, headers=asked.headers
    ) as response:
        if asked.leaves:
            await anext(response.aiter_bytes(), b"")
            return response.status_code, ""
        text = (await response.aread()).decode()
    return response.status_code, _problem(response, text)


def _problem(response: httpx.Response, text: str) -> str:
    if response.status_code not in ALLOWED:
        return f"{response.status_code}: {text[:300]}"
    if not response.headers["content-type"].startswith("text/event-stream"):
        try:
            json.loads(text)
        except ValueError:
            return f"no JSON: {text[:300]}"
    elif ERROR_EVENT.search(text):
        return f"an error within the stream: {text[-300:]}"
    return ""
