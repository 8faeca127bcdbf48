"""The worker process: what it consists of, and in which order it starts and ends.

Everything started here is a task of one group; the leases are kept until the last session has let
go. On SIGTERM it takes no new session, lets the running ones finish within the drain time, hands
over the rest, and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

from inference_worker.config import WorkerSettings
from inference_worker.dispatch import Dispatch, open_pool
from inference_worker.engine import Engine, EngineFailed
from inference_worker.generate import Sessions
from inference_worker.models import open_engine
from inference_worker.preparing import Preparing, result_of
from inference_worker.producer import Producer
from inference_worker.slot_orders import carried_out
from replay import keys
from replay.cluster import HEARTBEAT_S, Directory, ModelRecord, WorkerRecord
from replay.compaction import Compactor
from replay.errors import LogUnavailable
from replay.identity import SessionRef, decode, encode
from replay.outage import Outage
from replay.redis_log import RedisLog
from replay.redis_plane import connect, connect_queue, translated
from replay.redis_policy import START_S, check_policies
from replay.subscription import Subscription
from replay.sweeper import Sweeper

logger = logging.getLogger(__name__)


class Worker:
    """One worker. Owned by ``__main__``: ``await run(stop)``."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._sweep_redis = connect(settings.redis_url)
        self._queue_redis = connect_queue(settings.queue_url)
        self._log = RedisLog(self._redis)
        self._directory = Directory(self._redis)
        self._producer = Producer(
            self._log, window_bytes=settings.window_bytes, lease_s=settings.lease_s
        )
        self._sessions = Sessions(
            self._log,
            self._producer,
            self._tell_release,
            worker=settings.id,
            lease_s=settings.lease_s,
        )
        self._engines: dict[str, Engine] = {}
        self._records: dict[str, ModelRecord] = {}
        self._record = WorkerRecord(
            id=settings.id,
            host=platform.node(),
            pid=os.getpid(),
            started_ms=time.time_ns() // 1_000_000,
            build="b1-replay-cluster",
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop`` is set, then drains.

        Raises, in a group, EngineError where a model fails, RedisUnfit where Redis would evict.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            async with asyncio.TaskGroup() as group:
                # Its refusal ends the group. What Redis, being away, says later is heard later.
                checking = group.create_task(self._check_redis(), name="policies")
                await asyncio.wait([checking], timeout=START_S)
                beats = group.create_task(self._beat(), name="heartbeat")
                await self._load()
                if not stop.is_set():
                    await self._serve(stop, stack)
                beats.cancel()
                checking.cancel()

    async def _check_redis(self) -> None:
        planes = {"REPLAY_REDIS_URL": self._redis}
        if self._settings.queue_url != self._settings.redis_url:
            planes["REPLAY_QUEUE_REDIS_URL"] = self._queue_redis
        await check_policies(planes)

    async def _load(self) -> None:
        for name, path in self._settings.model_files().items():
            self._records[name] = ModelRecord(name=name, status="loading")
            logger.info("loading %s from %s", name, path)
            engine = await asyncio.to_thread(
                open_engine, self._settings, name, path, self._on_progress
            )
            engine.start(self._sessions.steps_of(asyncio.get_running_loop()))
            self._engines[name] = engine
            self._records[name] = _model_record(engine)
            logger.info("loaded %s: %d slots", name, engine.model.slots)

    def _on_progress(self, name: str, progress: float) -> None:
        record = self._records[name]
        if record.status == "loading":
            self._records[name] = replace(record, progress=round(progress, 3))

    async def _serve(self, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        settings = self._settings
        pool = open_pool(settings.queue_url)
        stack.push_async_callback(pool.aclose)
        dispatch = Dispatch(pool, self._sessions.start, room=self._sessions.room)
        self._sessions.on_slot_free = dispatch.wake_all
        self._sessions.requeue = dispatch.enqueue
        compactor = Compactor(self._log)
        sweeper = Sweeper(
            RedisLog(self._sweep_redis),
            Directory(self._sweep_redis),
            lease_s=settings.lease_s,
            requeue=dispatch.requeue,
            has_job=dispatch.has_job,
            compactor=compactor,
        )
        preparing = self._preparing()
        control = await stack.enter_async_context(
            Subscription(
                settings.redis_url, on_message=self._told, on_reset=self._sessions.renew_now
            ).open()
        )
        wakes = await stack.enter_async_context(
            Subscription(
                settings.queue_url,
                on_message=lambda _, model: dispatch.wake(decode(model.decode())),
                on_reset=dispatch.wake_all,
            ).open()
        )
        async with asyncio.TaskGroup() as group:
            lasting = [
                group.create_task(self._producer.run(), name="producer"),
                group.create_task(self._sessions.keep_leases(), name="leases"),
                group.create_task(self._sessions.tell_releases(), name="releases"),
                group.create_task(self._sessions.settle_takeovers(), name="takeovers"),
                group.create_task(self._sessions.try_suspects(), name="suspects"),
            ]
            taking = [
                group.create_task(_subscribed(control, keys.control(encode(settings.id)))),
                group.create_task(_subscribed(wakes, keys.wake())),
                group.create_task(sweeper.run(), name="sweeper"),
                group.create_task(compactor.run(), name="compactor"),
                *(group.create_task(one.run(), name="prepare") for one in preparing),
                *(
                    group.create_task(dispatch.run(engine), name=f"queue {name}")
                    for name, engine in self._engines.items()
                ),
            ]
            await stop.wait()
            logger.info("draining %d sessions", len(self._sessions))
            dispatch.picks = False
            self._record = replace(self._record, draining=True)
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)
            with suppress(LogUnavailable):
                await self._sessions.drain(settings.drain_s)
            for task in lasting:
                task.cancel()

    def _preparing(self) -> list[Preparing]:
        """One for each list that is answered without waiting for the others."""
        redis, settings = self._queue_redis, self._settings
        orders = partial(carried_out, files=settings.slot_files())
        return [
            Preparing(redis, self._engines, result_of),
            *(
                Preparing(redis, {name: engine}, result_of, list_of=keys.embedding)
                for name, engine in self._engines.items()
            ),
            Preparing(redis, self._engines, orders, list_of=partial(keys.slots, settings.id)),
        ]

    def _told(self, channel: str, message: bytes) -> None:
        word, _, session_key = message.decode().partition(" ")
        if word == "stop":
            self._sessions.stop(session_key)
        elif word == "end-thought":
            self._sessions.end_thought(session_key)

    async def _tell_release(self, ref: SessionRef) -> None:
        async with translated("release"):
            await self._redis.publish(keys.channel(ref), b"r")

    async def _beat(self) -> None:
        outage = Outage(logger, "no heartbeat")
        while True:
            self._check_engines()
            try:
                await self._directory.beat_worker(self._now())
                outage.is_over()
            except LogUnavailable as error:
                outage.goes_on(error)
            await asyncio.sleep(HEARTBEAT_S)

    def _check_engines(self) -> None:
        """Raises EngineFailed where one will never answer again: without it, this worker must not
        look as if it only had no free slot. Its sessions' leases expire, and others go on."""
        for name, engine in self._engines.items():
            if engine.failure:
                raise EngineFailed(f"{name}: {engine.failure}")

    def _now(self) -> WorkerRecord:
        models = tuple(
            self._model_now(record, self._engines[name]) if name in self._engines else record
            for name, record in self._records.items()
        )
        return replace(self._record, models=models)

    def _model_now(self, record: ModelRecord, engine: Engine) -> ModelRecord:
        return replace(
            record,
            slots_free=engine.free_slots,
            busy=self._sessions.busy(engine),
            held=engine.held_tokens,
        )

    async def _close(self) -> None:
        for engine in self._engines.values():
            await asyncio.to_thread(engine.close)
        with suppress(LogUnavailable):
            await self._directory.leave_worker(self._settings.id)
        for client in (self._redis, self._sweep_redis, self._queue_redis):
            await client.aclose()


async def _subscribed(subscription: Subscription, channel: str) -> None:
    while True:
        try:
            await subscription.subscribe(channel)
            return
        except LogUnavailable as error:
            logger.warning("not subscribed: %s", error)


def _model_record(engine: Engine) -> ModelRecord:
    model = engine.model
    return ModelRecord(
        name=model.name,
        status="loaded",
        progress=1.0,
        slots=model.slots,
        slots_free=engine.free_slots,
        context_tokens=model.context_tokens,
        adapters=model.adapters,
        meta={
            "vocab_type": model.vocab_type,
            "n_vocab": model.vocabulary_tokens,
            "n_ctx": model.context_tokens,
            "n_ctx_train": model.context_train_tokens,
            "n_embd": model.embedding_width,
            "n_params": model.parameters,
            "size": model.size_bytes,
        },
    )
