"""A node in memory: real routes, real hub, ``MemoryLog``; queue and worker are scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from api.admission import Admission
from api.app import create_app
from api.catalog import Catalog
from api.config import ApiSettings
from api.connection import Connections
from api.drain import NodeServer, listening_sockets
from api.node import Node, Presence
from replay import frames
from replay.cluster import ModelRecord, WorkerRecord
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log_values import Append, AppendResult, Claim
from replay.memory_log import MemoryLog
from replay.prepare import Asked, Prepared, Result
from replay.records import Reason, State
from replay.recovery import Recovery
from replay.tailer import Tailer

MODEL = "org/model:Q4"
WAIT_S = 30.0
"""Bound of every wait; a machine that is busy with other tests must not fail these."""
HELLO = [{"role": "user", "content": "hello"}]


async def wait_until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; fails when it does not within WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


async def eventually(condition: Callable[[], Awaitable[Any]]) -> None:
    """The same for a condition that must be asked for."""
    async with asyncio.timeout(4 * WAIT_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


@dataclass
class MemoryQueue:
    """``JobQueue`` in memory; ``away`` makes it answer as a Redis that is down."""

    jobs: list[tuple[int, SessionRef, int]] = field(default_factory=list)
    away: bool = False
    numbers: int = 0

    def _check(self) -> None:
        if self.away:
            raise LogUnavailable("queue")

    async def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    async def enqueue(self, ref: SessionRef, *, dispatch: int, number: int) -> None:
        self._check()
        self.jobs.append((number, ref, dispatch))
        self.jobs.sort(key=lambda job: job[0])

    async def remove(self, ref: SessionRef, *, dispatch: int) -> None:
        self._check()
        self.jobs = [job for job in self.jobs if job[1:] != (ref, dispatch)]

    async def has_job(self, ref: SessionRef, *, dispatch: int) -> bool:
        return (ref, dispatch) in [job[1:] for job in self.jobs]

    async def positions(self, waiting: Sequence[tuple[SessionRef, int]]) -> list[int | None]:
        self._check()
        queued = [job[1:] for job in self.jobs]
        return [queued.index(one) if one in queued else None for one in waiting]

    async def depths(self, models: Sequence[str]) -> list[int]:
        return [sum(job[1].model == model for job in self.jobs) for model in models]

    async def waiting(self, tenant: str, models: Sequence[str]) -> int:
        return sum(job[1].tenant == tenant and job[1].model in models for job in self.jobs)

    async def ping(self) -> None:
        self._check()


@dataclass
class ScriptedPreparer:
    """Answers every question alike; None never answers."""

    result: Result | None = field(default_factory=lambda: Prepared((1, 2, 3), 512))
    timeout_s: float = 0.05
    asked: list[tuple[str, Asked]] = field(default_factory=list)

    async def ask(self, model: str, asked: Asked) -> Result:
        self.asked.append((model, asked))
        if self.result is None:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.Event().wait()
        assert self.result is not None
        return self.result


@dataclass
class MemoryScales:
    """``AdapterScales`` in memory."""

    found: dict[str, Mapping[str, float]] = field(default_factory=dict)

    async def read(self, model: str) -> Mapping[str, float]:
        return self.found.get(model, {})

    async def write(self, model: str, scales: Mapping[str, float]) -> None:
        self.found[model] = scales


@dataclass
class Workers:
    """Who is there."""

    records: list[WorkerRecord] = field(default_factory=lambda: [worker("w1", model(MODEL))])

    async def workers(self) -> list[WorkerRecord]:
        return self.records


def model(name: str, status: Any = "loaded", **more: Any) -> ModelRecord:
    """A model as a worker tells of it."""
    known = {"slots": 8, "slots_free": 8, "context_tokens": 8192}
    return ModelRecord(name, status, **{**known, **more})


def worker(name: str, *models: ModelRecord) -> WorkerRecord:
    """A worker with these models."""
    return WorkerRecord(name, "host", 1, 1_700_000_000_000, "b1", models)


@dataclass
class Producer:
    """Produces one session, as a worker would."""

    log: MemoryLog
    claim: Claim
    completion_id: str
    end: int = 0

    async def put(self, data: bytes, **more: Any) -> AppendResult:
        [result] = await self.log.append([Append(self.claim, self.end, data, **more)])
        assert not isinstance(result, Exception)
        self.end = result.end
        return result

    def chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"finish_reason": finish, "index": 0, "delta": delta}
        return frames.data(
            {
                "choices": [choice],
                "created": 1_700_000_000,
                "id": self.completion_id,
                "model": self.claim.ref.model,
                "system_fingerprint": "b1",
                "object": "chat.completion.chunk",
                **more,
            }
        )

    async def say(self, *texts: str) -> None:
        if self.end == 0:
            await self.put(self.chunk({"role": "assistant", "content": None}))
        for text in texts:
            await self.put(self.chunk({"content": text}))

    async def complete(self) -> None:
        usage = {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5}
        last = self.chunk({}, "stop") + self.chunk({}, "stop", usage=usage)
        done = b"data: [DONE]\n\n"
        await self.put(last + done, state=State.COMPLETED, reason=Reason.STOP)

    async def fail(self, message: str = "it broke") -> None:
        closing = frames.closing("openai.chat", State.FAILED, "engine", message)
        await self.put(closing, state=State.FAILED, reason=Reason.ENGINE)


@dataclass
class NodeHarness:
    """One node and what stands around it. ``http`` reaches it."""

    app: FastAPI
    log: MemoryLog
    queue: MemoryQueue
    preparer: ScriptedPreparer
    workers: Workers
    http: httpx.AsyncClient

    async def post(
        self, *, name: str = "", key: str = "", if_busy: str = "", **body: Any
    ) -> httpx.Response:
        content = {"messages": HELLO, **body}
        return await self.http.post(chat(if_busy), headers=named(name, key), json=content)

    def posting(self, *, name: str = "", key: str = "", if_busy: str = "", **body: Any) -> Any:
        """A streamed POST, as a context manager."""
        content = {"messages": HELLO, "stream": True, **body}
        return self.http.stream("POST", chat(if_busy), headers=named(name, key), json=content)

    async def producer(self) -> Producer:
        """Waits for a job and takes it, as a worker would."""
        await wait_until(lambda: bool(self.queue.jobs))
        _, ref, _ = self.queue.jobs.pop(0)
        claimed = await self.log.claim(ref, worker="w1", nonce="n", lease_s=60)
        record = await self.log.record(ref)
        assert claimed.claim is not None and record is not None
        return Producer(self.log, claimed.claim, record.completion_id, record.end)

    def forget_picture(self) -> None:
        """The node looks anew at which workers there are."""
        self.app.state.node.catalog.forget()

    async def answered(self, name: str, *texts: str) -> bytes:
        """A finished session under this name; returns its log."""
        posting = asyncio.create_task(self.post(name=name, stream=True))
        producer = await self.producer()
        await producer.say(*(texts or ("one", " two")))
        await producer.complete()
        return (await posting).content


def named(name: str, key: str = "") -> dict[bytes, bytes]:
    """The headers that name a session and its intent, as UTF-8 bytes."""
    both = {b"X-Conversation-Id": name.encode(), b"Idempotency-Key": key.encode()}
    return {header: value for header, value in both.items() if value}


def chat(if_busy: str) -> str:
    """Where a chat is asked for."""
    return "/v1/chat/completions" + (f"?if_busy={if_busy}" if if_busy else "")


def error_of(response: httpx.Response) -> dict[str, Any]:
    """What stands in the envelope."""
    body = json.loads(response.content)
    assert set(body) == {"error"} and body["error"]["code"] == response.status_code
    error: dict[str, Any] = body["error"]
    return error


@asynccontextmanager
async def node_parts(settings: ApiSettings) -> AsyncIterator[tuple[FastAPI, dict[str, Any]]]:
    """The application over memory, not yet started, and its parts."""
    log, queue, preparer, workers = MemoryLog(), MemoryQueue(), ScriptedPreparer(), Workers()
    scales = MemoryScales()

    async def live(tenant: str) -> int:
        records = [session.record for session in log._sessions.values()]
        return sum(one.tenant == tenant and not one.state.is_final for one in records)

    @asynccontextmanager
    async def open_node(
        settings: ApiSettings, connections: Connections, presence: Presence
    ) -> AsyncIterator[Node]:
        async with Tailer(log, log.channels) as tailer:
            node = Node(
                id="node-1",
                settings=settings,
                log=log,
                tailer=tailer,
                catalog=Catalog(workers),
                preparer=preparer,
                queue=queue,
                connections=connections,
                recovery=Recovery(log, lease_s=1.0),
                admission=Admission(settings, queue, live),
                scales=scales,
                presence=presence,
            )
            try:
                yield node
            finally:
                await node.errands.finish(1.0)

    app = create_app(settings, open_node)
    yield app, {"log": log, "queue": queue, "preparer": preparer, "workers": workers}


@asynccontextmanager
async def memory_node(**settings: Any) -> AsyncIterator[NodeHarness]:
    """A node without a socket: whole responses only."""
    async with node_parts(quiet(**settings)) as (app, parts), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            yield NodeHarness(app=app, http=http, **parts)


@asynccontextmanager
async def served_node(**settings: Any) -> AsyncIterator[NodeHarness]:
    """A node behind a real socket: streams, disconnects, drains."""
    chosen = quiet(**settings)
    async with node_parts(chosen) as (app, parts):
        sockets = listening_sockets(
            "127.0.0.1", [0], send_buffer_bytes=chosen.send_buffer_bytes, user_timeout_s=5
        )
        server = NodeServer(
            app,
            node="test",
            drain_s=chosen.drain_s,
            notice_s=chosen.notice_s,
            connection_age_s=chosen.connection_age_s,
        )
        port = sockets[0].getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets))
        await wait_until(lambda: server.started or serving.done())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as http:
            app.state.server = server
            yield NodeHarness(app=app, http=http, **parts)
        server.should_exit = True
        await asyncio.wait_for(serving, WAIT_S)


def quiet(**settings: Any) -> ApiSettings:
    """Settings for tests: nothing comes from the environment that a test has not asked for."""
    return ApiSettings(**{"webui_dir": Path("/nowhere"), "drain_s": 0, **settings})
