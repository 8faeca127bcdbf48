"""A worker in this process, and what a node would do to give it work."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any
from uuid import uuid4

from inference_worker.config import WorkerSettings
from inference_worker.dispatch import Dispatch, Pool, open_pool
from inference_worker.rendering import renderers_of
from inference_worker.scripted_engine import open_scripted_engine, scripted_tokens
from inference_worker.text import TextAssembler
from inference_worker.worker import Worker
from replay import keys
from replay.cluster import Directory
from replay.identity import Conversation, SessionRef
from replay.log_values import Append, AppendResult, Claim, Look
from replay.prepare import Answer, Chat, Prepared, Question, Result
from replay.records import Chunk, End, NewSession, State, Token
from replay.redis_log import RedisLog
from replay.redis_plane import connect
from replay.request import GenerationRequest, RenderOptions, SamplingParams
from replay.subscription import Subscription
from replay.tailer import Tailer

LIMIT_S = 20.0


class Cluster:
    """One worker and the log, as a node sees them."""

    def __init__(self, url: str, pool: Pool) -> None:
        self.redis: Any = connect(url)
        self.pool = pool
        self.log = RedisLog(self.redis)
        self.directory = Directory(self.redis)
        self.tailer = Tailer(
            self.log, lambda m, r: Subscription(url, on_message=m, on_reset=r).open()
        )

    async def prepare(self, model: str, messages: list[dict[str, Any]]) -> Result:
        """Asks the worker."""
        question = Question(uuid4().hex, "test", model, Chat(tuple(messages)))
        await self.redis.rpush(keys.prepare(model), question.to_json())
        await self.redis.expire(keys.prepare(model), 10)
        _, answer = await self.redis.blpop([keys.inbox("test")], LIMIT_S)
        return Answer.from_json(answer).result

    async def post(
        self, name: str, text: str, *, model: str = "m", enqueue: bool = True, **more: Any
    ) -> SessionRef:
        """Prepares, opens and enqueues a session."""
        messages = [{"role": "user", "content": text}]
        prepared = await self.prepare(model, messages)
        assert isinstance(prepared, Prepared), prepared
        sampling = more.pop("sampling", SamplingParams(seed=1))
        request = GenerationRequest(
            dialect="openai.chat",
            model=model,
            messages=tuple(messages),
            sampling=sampling,
            render=RenderOptions(include_usage=True),
            **more,
        )
        number = await self.redis.incr(keys.queue_number())
        await self.redis.expire(keys.queue_number(), 60)
        conversation = Conversation("t", name)
        await self.log.watch(conversation, 0.2)
        opened = await self.log.open(
            NewSession(
                conversation=conversation,
                name=name,
                model=model,
                dialect="openai.chat",
                request=request.to_json(),
                prompt=prepared.prompt,
                prefill_chunk_tokens=prepared.prefill_chunk_tokens,
                completion_id="chatcmpl-1",
                id_seed="s",
                retention_s=60,
                ping_interval_s=request.ping_interval_s,
                queue_number=number,
            ),
            arrived_ms=math.inf,
            nonce=uuid4().hex,
        )
        if enqueue:
            look = await self.log.look(conversation)
            assert look is not None
            await self.enqueue(look)
        return opened.ref

    async def enqueue(self, look: Look) -> None:
        """The job, and the wake-up."""
        dispatch = Dispatch(self.pool, lambda engine, ref: asyncio.sleep(0), room=lambda engine: 0)
        await dispatch.requeue(look, look.dispatch)
        await self.redis.publish(keys.wake(), look.ref.model)

    async def read(self, ref: SessionRef, offset: int = 0) -> tuple[bytes, End]:
        """The whole log from an offset, live."""
        body = b""
        async with asyncio.timeout(LIMIT_S), self.tailer.tail(ref, offset) as tail:
            async for item in tail:
                if isinstance(item, Chunk):
                    body += item.data
                else:
                    return body, item
        raise AssertionError("a tail ends with an end")

    async def begun(self, claim: Claim, count: int) -> bytes:
        """Appends the answer's first tokens as a worker that then died would have."""
        record = await self.log.record(claim.ref)
        assert record is not None
        request = GenerationRequest.from_json(record.request)
        engine = open_scripted_engine()
        [renderer], text = renderers_of(record, request), TextAssembler(request.stop)
        body = b""
        ids = list(islice(scripted_tokens(record.prompt, request.sampling), count))
        for index, token in enumerate(ids):
            data = renderer.step(text.feed(engine.piece(token)), tokens=index + 1, timings=None)
            (result,) = await self.log.append(
                [Append(claim, len(body), data, first_token=index, tokens=[Token(token)])]
            )
            assert isinstance(result, AppendResult), result
            body += data
        return body

    async def loaded(self) -> None:
        """Waits until a worker has loaded its models."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                models = [model for w in await self.directory.workers() for model in w.models]
                if models and all(model.status == "loaded" for model in models):
                    return
                await asyncio.sleep(0.02)  # a heartbeat is seen by asking


@asynccontextmanager
async def running(url: str, **settings: Any) -> AsyncIterator[Cluster]:
    """A worker with scripted engines, drained at the end."""
    stop = asyncio.Event()
    fields = {
        "redis_url": url,
        "worker": "w1",
        "engine": "scripted",
        "models": "m=x",
        "drain_s": 0.1,
    }
    worker = Worker(WorkerSettings(**{**fields, **settings}))
    pool = open_pool(url)
    cluster = Cluster(url, pool)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(worker.run(stop))
        try:
            async with cluster.tailer:
                await cluster.loaded()
                yield cluster
        finally:
            stop.set()
            async with asyncio.timeout(LIMIT_S):
                await asyncio.wait([task])
            await pool.aclose()
            await cluster.redis.aclose()


def frames_of(body: bytes) -> list[dict[str, Any]]:
    """The JSON of the data frames of a body."""
    lines = body.decode().split("\n\n")
    return [
        json.loads(line.removeprefix("data: "))
        for line in lines
        if line.startswith("data: ") and line != "data: [DONE]"
    ]


def text_of(body: bytes) -> str:
    """What a body says."""
    deltas = [choice["delta"] for frame in frames_of(body) for choice in frame.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


COMPLETED = State.COMPLETED
