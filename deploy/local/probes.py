"""Whether a cluster is ready: its nodes say so over HTTP, its workers in their own records."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from replay import keys
from replay.cluster import WorkerRecord
from replay.redis_plane import connect

ANSWER_S = 0.5
BODY_BYTES_MAX = 4 << 20


def get(url: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when there is no whole answer within ANSWER_S."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def lists_a_loaded_model(body: bytes) -> bool:
    """Whether the body of /v1/models names a model whose status is loaded."""
    try:
        models: Any = json.loads(body)["data"]
        return any(model["status"]["value"] == "loaded" for model in models)
    except (ValueError, KeyError, TypeError):
        return False


def workers_are_ready(redis_url: str, pids: Mapping[str, int | None]) -> bool:
    """Whether each worker (by name) has a model loaded, as told by the very process that runs now.

    /v1/models is no proof: a worker killed a moment ago is still in there, by its last heartbeat.
    """
    try:
        records = asyncio.run(_worker_records(redis_url, list(pids)))
    except (RedisError, OSError):
        return False
    return all(_has_loaded(records[name], pid) for name, pid in pids.items())


async def _worker_records(redis_url: str, names: Sequence[str]) -> dict[str, Any]:
    redis: Any = connect(redis_url)
    try:
        async with asyncio.timeout(ANSWER_S):
            return {name: await redis.get(keys.worker(name)) for name in names}
    finally:
        await redis.aclose()


def _has_loaded(record: Any, pid: int | None) -> bool:
    worker = WorkerRecord.from_json(record) if record else None
    return (
        worker is not None
        and worker.pid == pid
        and any(model.status == "loaded" for model in worker.models)
    )


def nodes_are_ready(nodes: Sequence[str], *, needs_model: bool, api_key: str = "") -> bool:
    """Whether every node (by URL) answers /ready with 200 and the first one lists a loaded model.

    `needs_model` is False for a cluster without workers, `api_key` empty for an open API.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    if not all(get(url, "/ready", headers)[0] == 200 for url in nodes):
        return False
    if not (needs_model and nodes):
        return True
    status, body = get(nodes[0], "/v1/models", headers)
    return status == 200 and lists_a_loaded_model(body)
