"""Connections that obey their task, calls that survive a forgetful server, errors that are ours."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from replay import redis_connections
from replay.errors import LogUnavailable
from replay.redis_connections import CONNECTIONS_MAX, SOCKET_TIMEOUT_S
from replay.redis_plane import Plane, connect, connections_made, translated
from replay.redis_scripts import Call, Script
from tests.chaos.proxy import Link
from tests.redis_server import free_port

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
TASKS = 100


def own_script(text: str) -> Script:
    return Script("own", text, hashlib.sha1(text.encode()).hexdigest())


ECHO = own_script("#!lua\nreturn ARGV[1]")
OTHER = own_script("#!lua\nreturn 'other ' .. ARGV[1]")
FAILS = own_script("#!lua\nreturn redis.error_reply('ERR it fails')")
COUNTS = own_script(
    "#!lua\nlocal n = redis.call('INCR', KEYS[1])\nredis.call('EXPIRE', KEYS[1], 60)\nreturn n"
)


async def _cancelled_at_random(tasks: list[asyncio.Task[None]], limit_s: float) -> None:
    """Cancels each at a moment of its own and waits until all of them have ended."""
    chance = random.Random(7)
    await asyncio.sleep(0.02)  # all of them in the middle of commands
    for task in chance.sample(tasks, len(tasks)):
        task.cancel()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
    done, left = await asyncio.wait(tasks, timeout=limit_s)
    assert len(left) == 0, "a cancellation was lost"
    assert all(task.cancelled() for task in done)


@pytest.mark.parametrize("use_pipeline", [False, True], ids=["commands", "pipelines"])
async def test_no_cancellation_is_lost_and_no_reply_mistaken(
    redis: Redis, use_pipeline: bool
) -> None:
    plane = Plane(redis)

    async def ask_forever(number: int) -> None:
        key = str(number)
        while True:
            if use_pipeline:
                replies = await plane.call_all([Call(ECHO, (), (key,)), Call(OTHER, (), (key,))])
                assert replies == [key.encode(), b"other " + key.encode()]
            else:
                assert await redis.get(key) == key.encode()

    for number in range(TASKS):
        await redis.set(str(number), str(number), ex=60)
    tasks = [asyncio.create_task(ask_forever(number)) for number in range(TASKS)]
    stay = [asyncio.create_task(ask_forever(number)) for number in range(5)]
    await _cancelled_at_random(tasks, LIMIT_S)
    assert not any(task.done() for task in stay)
    for task in stay:
        task.cancel()
    await asyncio.gather(*stay, return_exceptions=True)
    assert await redis.get("7") == b"7"


async def test_a_wait_in_redis_is_cancelled_at_once(redis: Redis) -> None:
    for _ in range(30):
        task = asyncio.create_task(redis.blpop(["nothing"], 4))
        await asyncio.sleep(0.001)  # now it waits in Redis
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=3)
        assert done
    await redis.rpush("something", "x")
    assert await redis.blpop(["something"], 1) == (b"something", b"x")


async def test_a_timeout_around_a_command_ends_it(redis: Redis) -> None:
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await redis.blpop(["nothing"], 4)
    assert await redis.ping()


async def test_a_connection_that_was_closed_while_idle_is_made_again(
    redis_url: str, redis: Redis
) -> None:
    other = connect(redis_url)
    try:
        assert await redis.ping()
        for _ in range(5):
            await other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01)  # the news travels
            assert await redis.ping()
    finally:
        await other.aclose()


def test_a_connection_that_was_reset_is_made_again_whatever_the_loop(redis_url: str) -> None:
    where = urlsplit(redis_url)
    assert where.hostname and where.port

    async def ping_between_resets() -> bool:
        async with Link((where.hostname, where.port)) as link:
            client = connect(f"redis://127.0.0.1:{link.port}")
            for _ in range(5):
                with suppress(RedisError):  # the error that is translated; any other is a defect
                    await client.ping()
                link.reset()
                await asyncio.sleep(0.05)  # the news travels
            with suppress(RedisError):
                await client.ping()
            answered = await client.ping()
            await client.aclose()
            return bool(answered)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ping_between_resets())


async def test_a_thousand_commands_at_once_share_a_few_connections(redis: Redis) -> None:
    await asyncio.gather(*(redis.get("k") for _ in range(1000)))
    assert redis.connection_pool.made <= CONNECTIONS_MAX


async def test_a_cancelled_wait_takes_no_place(redis: Redis) -> None:
    waiting = [asyncio.create_task(redis.blpop("nothing", 0)) for _ in range(CONNECTIONS_MAX + 10)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await asyncio.gather(*(redis.get("k") for _ in range(2 * CONNECTIONS_MAX)))


async def test_a_forgotten_script_is_loaded_and_called_again(redis: Redis) -> None:
    plane = Plane(redis)
    for _ in range(2):
        await redis.script_flush()
        assert await plane.call(Call(ECHO, (), ("x",))) == b"x"


async def test_only_the_calls_that_did_not_run_are_repeated(redis: Redis) -> None:
    plane = Plane(redis)
    await redis.script_flush()
    await redis.script_load(COUNTS.text)
    calls = [
        Call(COUNTS, ("count",), ()),
        Call(ECHO, (), ("a",)),
        Call(COUNTS, ("count",), ()),
        Call(OTHER, (), ("b",)),
        Call(ECHO, (), ("c",)),
    ]
    assert await plane.call_all(calls) == [1, b"a", 2, b"other b", b"c"]
    assert await redis.get("count") == b"2"


async def test_one_failed_call_of_many_is_an_error_in_its_place(redis: Redis) -> None:
    plane = Plane(redis)
    calls = [Call(ECHO, (), ("a",)), Call(FAILS, (), ()), Call(ECHO, (), ("b",))]
    first, failed, last = await plane.call_all(calls)
    assert (first, last) == (b"a", b"b")
    assert isinstance(failed, LogUnavailable)
    assert isinstance(failed.__cause__, ResponseError)
    assert "it fails" in str(failed)


async def test_no_calls_are_no_round_trip() -> None:
    nowhere: Any = None
    assert await Plane(nowhere).call_all([]) == []


async def test_a_refusing_script_is_our_error(redis: Redis) -> None:
    with pytest.raises(LogUnavailable, match="own: it fails") as error:
        await Plane(redis).call(Call(FAILS, (), ()))
    assert isinstance(error.value.__cause__, ResponseError)


async def test_full_memory_can_be_told_from_other_refusals(redis: Redis) -> None:
    plane = Plane(redis)
    await plane.call(Call(COUNTS, ("count",), ()))
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used // 2)
    try:
        (refused,) = await plane.call_all([Call(COUNTS, ("count",), ())])
    finally:
        await redis.config_set("maxmemory", 0)
    assert isinstance(refused, LogUnavailable)
    assert isinstance(refused.__cause__, OutOfMemoryError)


async def test_a_server_that_is_not_there_is_our_error() -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}")
    plane = Plane(client)
    try:
        for asked in (plane.call(Call(ECHO, (), ("x",))), plane.call_all([Call(ECHO, (), ("x",))])):
            with pytest.raises(LogUnavailable):
                await asked
    finally:
        await client.aclose()


@asynccontextmanager
async def mute_server() -> AsyncIterator[str]:
    """Takes connections, and says nothing."""
    writers = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"redis://{host}:{port}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def test_a_server_that_hangs_is_our_error_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_connections, "SOCKET_TIMEOUT_S", 0.1)
    async with mute_server() as url, asyncio.timeout(SOCKET_TIMEOUT_S):
        client = connect(url)
        with pytest.raises(LogUnavailable):
            await Plane(client).call(Call(ECHO, (), ("x",)))
        with pytest.raises(LogUnavailable):
            await Plane(client).call_all([Call(ECHO, (), ("x",))])
        await client.aclose()


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionResetError("reset"), ResponseError("E")]
)
async def test_what_redis_raises_becomes_ours(error: Exception) -> None:
    with pytest.raises(LogUnavailable) as ours:
        async with translated("read"):
            raise error
    assert ours.value.__cause__ is error
    assert ours.value.operation.startswith("read: ")


async def test_what_is_not_redis_own_stays_what_it_is() -> None:
    for error in (KeyError("bug"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            async with translated("read"):
                raise error


async def test_who_has_become_a_replica_is_left(redis_url: str, redis: Redis) -> None:
    client = connect(redis_url)
    plane = Plane(client)
    call = Call(COUNTS, ("count",), ())
    try:
        assert await plane.call(call) == 1
        await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        for asked in (plane.call(call), plane.call_all([call, call])):
            number = connections_made(client)
            with pytest.raises(LogUnavailable, match="no longer a master"):
                await asked
        assert connections_made(client) > number
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        assert await plane.call(call) == 2
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        await client.aclose()


async def test_a_connection_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits as long as a connection may take, and not in a row."""
    monkeypatch.setattr(redis_connections, "CONNECT_TIMEOUT_S", 0.3)
    async with mute_server() as url:
        client = connect(url + "/1")  # its greeting waits for an answer
        async with asyncio.timeout(0.3 * 30):
            told = await asyncio.gather(
                *(client.get("k") for _ in range(60)), return_exceptions=True
            )
        assert all(isinstance(error, OSError | RedisError) for error in told)
        await client.aclose()


async def test_a_cancelled_greeting_leaves_no_reply_for_the_next(redis_url: str) -> None:
    client = connect(redis_url)
    try:
        for turns in range(60):
            await client.connection_pool.disconnect()
            task = asyncio.create_task(client.get("k"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await client.echo("mine") == b"mine"
    finally:
        await client.aclose()
