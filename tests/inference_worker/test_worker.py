"""A whole worker: real Redis, real arq, a scripted engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cluster import LIMIT_S, Cluster, frames_of, running, text_of
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError

from inference_worker.batch_loop import BatchEngine
from inference_worker.engine import EngineFailed
from inference_worker.scripted_engine import scripted_answer
from replay import keys
from replay.identity import SessionRef
from replay.prepare import Refused
from replay.records import End, SessionRecord, State, unpack_tokens
from replay.request import SamplingParams

pytestmark = pytest.mark.anyio
ASK_S = 0.01
FAST = "[[tokens=40 rate=0]]"
ENDLESS = "[[tokens=100000 rate=200]]"


async def _record(cluster: Cluster, ref: SessionRef, state: State) -> SessionRecord:
    for _ in range(round(LIMIT_S / ASK_S)):
        record = await cluster.log.record(ref)
        if record is not None and record.state is state:
            return record
        await asyncio.sleep(ASK_S)
    raise AssertionError(f"{ref} did not become {state}")


def told_of(body: bytes) -> str:
    """What the tokens show whose probabilities were told."""
    choices = [choice for frame in frames_of(body) for choice in frame["choices"]]
    told = [
        one for choice in choices if "logprobs" in choice for one in choice["logprobs"]["content"]
    ]
    return b"".join(bytes(one["bytes"]) for one in told).decode()


async def test_a_session_is_generated_and_stored_with_its_tokens(redis_url: str) -> None:
    async with running(redis_url) as cluster:
        ref = await cluster.post("c", FAST)
        body, end = await cluster.read(ref)
        record = await cluster.log.record(ref)
        assert record is not None
        expected = scripted_answer(record.prompt, SamplingParams(seed=1))
        assert text_of(body) == expected
        assert body.endswith(b"data: [DONE]\n\n")
        assert end == End(State.COMPLETED, "stop", len(body))
        tokens = unpack_tokens(await cluster.log.tokens(ref))
        assert (
            frames_of(body)[-1]["usage"]["completion_tokens"] == len(tokens) == record.token_count
        )
        assert await cluster.read(ref, 17) == (body[17:], end)


async def test_eight_sessions_stream_at_once_and_a_ninth_waits(redis_url: str) -> None:
    async with running(redis_url) as cluster:
        busy = [await cluster.post(f"c{i}", ENDLESS) for i in range(8)]
        for ref in busy:
            await _record(cluster, ref, State.RUNNING)
        ninth = await cluster.post("c9", FAST)
        record = await cluster.log.record(ninth)
        assert record is not None
        assert record.state is State.QUEUED
        await cluster.log.stop("t", "c0", epoch=None, keep=False, reason="client")
        _, end = await cluster.read(ninth)
        assert end.state is State.COMPLETED


async def test_a_stop_frees_the_slot_and_tells_the_release(redis_url: str) -> None:
    async with running(redis_url, slots=1) as cluster:
        ref = await cluster.post("c", ENDLESS)
        await _record(cluster, ref, State.RUNNING)
        async with cluster.tailer.listen(ref) as released:
            stopped = await cluster.log.stop("t", "c", epoch=None, keep=True, reason="client")
            assert stopped is not None
            async with asyncio.timeout(LIMIT_S):
                await released.wait()
        body, end = await cluster.read(ref)
        assert (end.state, end.reason) == (State.STOPPED, "client")
        assert body.endswith(b': end {"state":"stopped","reason":"client"}\n\n')
        again = await cluster.post("c", FAST)
        assert (await cluster.read(again))[1].state is State.COMPLETED


async def test_a_stop_reaches_a_prefilling_session(redis_url: str) -> None:
    async with running(redis_url, slots=1) as cluster:
        ref = await cluster.post("c", "[[prefill_s=30]]")
        await _record(cluster, ref, State.RUNNING)
        await cluster.log.stop("t", "c", epoch=None, keep=True, reason="client")
        again = await cluster.post("d", FAST)
        assert (await cluster.read(again))[1].state is State.COMPLETED
        assert unpack_tokens(await cluster.log.tokens(ref)) == []


async def test_an_engine_failure_ends_as_failed_with_an_error_event(redis_url: str) -> None:
    async with running(redis_url) as cluster:
        body, end = await cluster.read(await cluster.post("c", "[[fail_at=5 rate=0]]"))
        assert (end.state, end.reason) == (State.FAILED, "engine")
        assert frames_of(body)[-1]["error"]["type"] == "server_error"
        assert body.endswith(b': end {"state":"failed","reason":"engine"}\n\n')
        assert b"[DONE]" not in body


async def test_silence_is_kept_alive_with_comments_of_the_log(redis_url: str) -> None:
    async with running(redis_url) as cluster:
        ref = await cluster.post("c", "[[prefill_s=4 tokens=3]]", ping_interval_s=1)
        body, end = await cluster.read(ref)
        silence = body.partition(b"data: ")[0]
        assert silence == b":\n\n" * silence.count(b":") and silence.count(b":") >= 2
        assert end.size == len(body)


async def test_several_models_on_one_worker_have_queues_of_their_own(redis_url: str) -> None:
    async with running(redis_url, models="one=x,two=y", slots=1) as cluster:
        busy = await cluster.post("c", ENDLESS, model="one")
        await _record(cluster, busy, State.RUNNING)
        waiting = await cluster.post("d", FAST, model="one")
        _, end = await cluster.read(await cluster.post("e", FAST, model="two"))
        assert end.state is State.COMPLETED
        assert (await cluster.log.record(waiting)).state is State.QUEUED  # type: ignore[union-attr]


async def test_a_queued_session_without_a_job_is_queued_again(redis_url: str) -> None:
    async with running(redis_url) as cluster:
        ref = await cluster.post("c", FAST, enqueue=False)
        assert (await cluster.read(ref))[1].state is State.COMPLETED
        record = await cluster.log.record(ref)
        assert record is not None
        assert record.dispatch == 2


async def test_a_session_whose_producer_died_is_gone_on_with(redis_url: str) -> None:
    async with running(redis_url, lease_s=0.3) as cluster:
        whole, _ = await cluster.read(await cluster.post("whole", FAST))
        for kept in (0, 1, 7, 20, 39, 40):
            ref = await cluster.post("c", FAST, enqueue=False)
            dead = await cluster.log.claim(ref, worker="dead", nonce="x", lease_s=60)
            assert dead.claim is not None
            begun = await cluster.begun(dead.claim, kept)
            await cluster.redis.hset(keys.record(ref), "lease_until_ms", "1")
            body, end = await cluster.read(ref)
            assert end.state is State.COMPLETED
            assert body.startswith(begun)
            assert text_of(body) == text_of(whole)
            assert [frame["object"] for frame in frames_of(body)] == [
                frame["object"] for frame in frames_of(whole)
            ]
            assert frames_of(body)[-1]["usage"] == frames_of(whole)[-1]["usage"]
            record = await cluster.log.record(ref)
            assert record is not None
            assert (record.attempt, record.token_count) == (2, 40)


async def test_a_worker_that_ends_hands_its_sessions_over(redis_url: str) -> None:
    slow = "[[tokens=60 rate=40]]"
    sampling = SamplingParams(seed=1, logprobs=True)
    async with running(redis_url, worker="w1") as cluster:
        ref = await cluster.post("c", slow, sampling=sampling, stop=("w0003 x",))
        await _record(cluster, ref, State.RUNNING)
    async with running(redis_url, worker="w2") as cluster:
        record = await cluster.log.record(ref)
        assert record is not None
        assert record.deaths == 0
        body, end = await cluster.read(ref)
        assert end.state is State.COMPLETED
        assert text_of(body) == scripted_answer(record.prompt, SamplingParams(seed=1))
        assert frames_of(body)[-1]["usage"]["completion_tokens"] == 60
        assert told_of(body) == text_of(body)


async def test_a_worker_whose_engine_died_ends_and_another_goes_on(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: BatchEngine) -> None:
        raise RuntimeError("the loop broke")

    with pytest.raises(ExceptionGroup) as ended:
        async with running(redis_url, worker="w1", lease_s=0.3) as cluster:
            ref = await cluster.post("c", "[[tokens=60 rate=40]]")
            await _record(cluster, ref, State.RUNNING)
            monkeypatch.setattr(BatchEngine, "_step", broken)
            await asyncio.Event().wait()
    assert ended.group_contains(EngineFailed, match="the loop broke")
    monkeypatch.undo()
    async with running(redis_url, worker="w2", lease_s=0.3) as cluster:
        body, end = await cluster.read(ref)
        record = await cluster.log.record(ref)
        assert record is not None
        assert (end.state, record.deaths) == (State.COMPLETED, 1)
        assert text_of(body) == scripted_answer(record.prompt, SamplingParams(seed=1))


async def test_a_worker_that_was_fenced_stops_its_sequence(redis_url: str) -> None:
    async with running(redis_url, slots=1) as cluster:
        ref = await cluster.post("c", ENDLESS)
        await _record(cluster, ref, State.RUNNING)
        await cluster.redis.hset(keys.record(ref), "lease_until_ms", "1")
        await cluster.log.claim(ref, worker="other", nonce="other", lease_s=60)
        again = await cluster.post("d", FAST)
        assert (await cluster.read(again))[1].state is State.COMPLETED
        assert (await cluster.log.record(ref)).state is State.RUNNING  # type: ignore[union-attr]


async def test_prepare_counts_tokens_and_refuses_what_does_not_fit(redis_url: str) -> None:
    async with running(redis_url, context_tokens=64) as cluster:
        refused = await cluster.prepare("m", [{"role": "user", "content": "x" * 500}])
        assert isinstance(refused, Refused)
        assert (refused.kind, refused.context_tokens) == ("context", 64)
        assert refused.prompt_tokens > 500


async def test_a_redis_that_was_away_costs_no_session(redis_url: str) -> None:
    async with running(redis_url, lease_s=60) as cluster:
        ref = await cluster.post("c", "[[tokens=100 rate=100]]")
        await _record(cluster, ref, State.RUNNING)
        await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        body, end = await cluster.read(ref)
        record = await cluster.log.record(ref)
        assert record is not None
        assert text_of(body) == scripted_answer(record.prompt, SamplingParams(seed=1))
        assert end.state is State.COMPLETED


async def test_a_session_that_is_ours_already_is_not_claimed_again(redis_url: str) -> None:
    async with running(redis_url, lease_s=1.0) as cluster:
        ref = await cluster.post("c", "[[tokens=100 rate=50 seed=1]]")
        await _record(cluster, ref, State.RUNNING)
        await cluster.redis.hset(keys.record(ref), "lease_until_ms", "1")
        look = await cluster.log.look(ref.conversation)
        assert look is not None
        requeued = await cluster.log.requeue(look)
        await cluster.enqueue(replace(look, dispatch=requeued.dispatch))
        body, end = await cluster.read(ref)
        assert end.state is State.COMPLETED
        record = await cluster.log.record(ref)
        assert record is not None
        assert record.attempt == 1
        assert text_of(body) == scripted_answer(record.prompt, SamplingParams(seed=1))


async def test_an_error_between_arqs_looking_and_picking_makes_nobody_deaf(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(redis_url) as cluster:
        exists = Pipeline.exists
        failures = iter([ConnectionError("gone")] * 2)

        def failing(self: Pipeline, *names: str) -> object:
            if any(str(name).startswith("arq:in-progress:") for name in names):
                for error in failures:
                    raise error
            return exists(self, *names)

        monkeypatch.setattr(Pipeline, "exists", failing)
        _, end = await cluster.read(await cluster.post("c", FAST))
        assert end.state is State.COMPLETED
        assert next(failures, None) is None
