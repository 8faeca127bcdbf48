"""The pub/sub connection: confirmed before it says so, and never back without a word."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import pytest
from redis.asyncio import Redis

from deploy.local.redis_server import answers, find_program
from replay import subscription
from replay.errors import LogUnavailable
from replay.redis_plane import connect
from replay.subscription import Subscription
from tests.redis_server import free_port

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
PASSWORD = "se cret:@/"


@pytest.fixture(
    scope="module",
    params=[("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Nodes and workers run under uvloop, most tests do not."""
    return request.param


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules, ten times faster."""
    monkeypatch.setattr(subscription, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(subscription, "RETRY_MAX_S", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long a confirmation is waited for: no confirmation that is meant to come."""

    def confirms_within(limit_s: float) -> None:
        monkeypatch.setattr(subscription, "CONFIRM_TIMEOUT_S", limit_s)

    return confirms_within


class Ear:
    """What a subscription has told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.heard_after: list[int] = []
        self.resets = 0

    def message(self, channel: str, payload: bytes) -> None:
        self.heard_after.append(self.resets)
        self.heard.append((channel, payload))

    def reset(self) -> None:
        self.resets += 1


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Subscription, Ear]]:
    ear = Ear()
    one = Subscription(url, on_message=ear.message, on_reset=ear.reset)
    async with asyncio.timeout(LIMIT_S), one.open():
        yield one, ear


async def until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)  # a socket tells nobody


async def listeners(redis: Redis, channel: str) -> int:
    ((_, count),) = await redis.pubsub_numsub(channel)
    return int(count)


class FakeServer:
    """Answers as Redis does, or holds its answers back."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.confirms: Callable[[str], bool] = lambda channel: True
        self.is_deaf = False
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FakeServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.url = f"redis://{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.close()
            await server.wait_closed()

    def count(self, word: bytes, channel: str = "") -> int:
        return sum(
            command[0] == word and (not channel or command[1] == channel.encode())
            for command in self.commands
        )

    def confirm(self, channel: str) -> None:
        name = channel.encode()
        self.writers[-1].write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(name), name))

    def publish(self, channel: str, data: bytes) -> None:
        name = channel.encode()
        told = (b"message", name, data)
        parts = [b"$%d\r\n%b\r\n" % (len(part), part) for part in told]
        self.writers[-1].write(b"*3\r\n" + b"".join(parts))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        parser = hiredis.Reader()
        with suppress(ConnectionError):  # the subscription aborts its connections
            while data := await reader.read(4096):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.commands.append(command)
                    self._answer(command)
        writer.close()

    def _answer(self, command: list[bytes]) -> None:
        if self.is_deaf:
            return
        if command[0] == b"SUBSCRIBE" and self.confirms(command[1].decode()):
            self.confirm(command[1].decode())
        elif command[0] == b"PING":
            self.writers[-1].write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    async with fake.listening():
        yield fake


async def test_a_subscription_is_confirmed_before_it_returns(redis_url: str, redis: Redis) -> None:
    async with opened(redis_url) as (one, ear):
        for number in range(50):
            channel = f"c{number}"
            await one.subscribe(channel)
            assert await listeners(redis, channel) == 1
            assert await redis.publish(channel, b"%d" % number) == 1
        await until(lambda: len(ear.heard) == 50)
        assert ear.heard == [(f"c{number}", b"%d" % number) for number in range(50)]


async def test_a_subscription_waits_for_the_servers_word(server: FakeServer) -> None:
    server.confirms = lambda channel: False
    async with opened(server.url) as (one, _):
        task = asyncio.ensure_future(one.subscribe("c"))
        await until(lambda: server.count(b"SUBSCRIBE", "c") == 1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        server.confirm("other")
        server.confirm("c")
        await task


async def test_two_who_want_a_channel_share_its_subscription(server: FakeServer) -> None:
    async with opened(server.url) as (one, _):
        await asyncio.gather(one.subscribe("c"), one.subscribe("c"))
        await one.subscribe("c")
        assert server.count(b"SUBSCRIBE") == 1


async def test_an_unconfirmed_subscription_is_an_error_within_its_limit(
    server: FakeServer, impatient: Callable[[float], None]
) -> None:
    impatient(0.3)
    server.confirms = lambda channel: False
    async with opened(server.url) as (one, _):
        with pytest.raises(LogUnavailable):
            await one.subscribe("c")


async def test_a_channel_left_before_its_confirmation_is_confirmed_anew(
    server: FakeServer,
) -> None:
    """Subscribed, left, subscribed: the first confirmation speaks of before the leaving."""
    server.confirms = lambda channel: False
    async with opened(server.url) as (one, _):
        first = asyncio.ensure_future(one.subscribe("c"))
        await until(lambda: server.count(b"SUBSCRIBE", "c") == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        one.unsubscribe("c")
        second = asyncio.ensure_future(one.subscribe("c"))
        await until(lambda: server.count(b"SUBSCRIBE", "c") == 2)
        server.confirm("c")  # then the server unsubscribes, and only then subscribes again
        server.confirms = lambda channel: True
        await one.subscribe("later")  # all that was sent before it has been heard
        assert not second.done()
        server.confirm("c")
        await second


async def test_what_is_unsubscribed_is_heard_no_more(redis_url: str, redis: Redis) -> None:
    async with opened(redis_url) as (one, ear):
        await one.subscribe("a")
        await one.subscribe("b")
        one.unsubscribe("a")
        one.unsubscribe("a")
        one.unsubscribe("never")
        await one.subscribe("c")
        assert await listeners(redis, "a") == 0
        await redis.publish("a", b"x")
        await redis.publish("b", b"y")
        await until(lambda: bool(ear.heard))
        assert ear.heard == [("b", b"y")]


async def test_any_bytes_on_any_channel_arrive_whole_and_in_order(
    redis_url: str, redis: Redis
) -> None:
    payloads = [b"", b"\r\n*3\r\n", bytes(range(256)), b"x" * 1_000_000, b"\xff"]
    async with opened(redis_url) as (one, ear):
        await one.subscribe("\u6f22 \r\n{}")
        for payload in payloads:
            await redis.publish("\u6f22 \r\n{}", payload)
        await until(lambda: len(ear.heard) == len(payloads))
        assert ear.heard == [("\u6f22 \r\n{}", payload) for payload in payloads]


async def test_a_killed_connection_is_made_again_and_told(redis_url: str, redis: Redis) -> None:
    async with opened(redis_url) as (one, ear):
        for channel in ("a", "b"):
            await one.subscribe(channel)
        await until(lambda: ear.resets == 1)
        for count in (2, 3):
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: ear.resets == count)  # noqa: B023  # awaited in this round
            for channel in ("a", "b"):
                assert await redis.publish(channel, b"%d" % count) == 1
        await until(lambda: len(ear.heard) == 4)
        assert [payload for _, payload in ear.heard] == [b"2", b"2", b"3", b"3"]


async def test_a_reset_is_told_after_every_channel_is_subscribed_again(
    server: FakeServer,
) -> None:
    async with opened(server.url) as (one, ear):
        for channel in ("a", "b"):
            await one.subscribe(channel)
        await until(lambda: ear.resets == 1)
        server.confirms = lambda channel: channel == "a"
        server.writers[-1].close()
        await until(lambda: server.count(b"SUBSCRIBE", "b") == 2)
        late = asyncio.ensure_future(one.subscribe("b"))
        await one.subscribe("a")
        assert not late.done()
        assert ear.resets == 1
        server.confirm("b")
        await late
        await until(lambda: ear.resets == 2)


async def test_no_message_of_a_new_connection_comes_before_its_reset(server: FakeServer) -> None:
    """A reader that does not know yet what was forgotten would take it for what follows."""
    async with opened(server.url) as (one, ear):
        for channel in ("a", "b"):
            await one.subscribe(channel)
        await until(lambda: ear.resets == 1)
        server.confirms = lambda channel: channel == "a"
        server.writers[-1].close()
        await until(lambda: server.count(b"SUBSCRIBE", "b") == 2)
        await one.subscribe("a")
        for data in (b"early", b"too"):
            server.publish("a", data)
        await until(lambda: len(ear.heard) == 2)
        assert ear.heard_after == [2, 2]
        server.confirm("b")
        await until(lambda: ear.resets == 3)  # what was lost of "b" is found by this one


async def test_a_channel_left_while_reconnecting_holds_up_nobody(server: FakeServer) -> None:
    async with opened(server.url) as (one, ear):
        for channel in ("a", "b"):
            await one.subscribe(channel)
        await until(lambda: ear.resets == 1)
        server.confirms = lambda channel: channel == "a"
        server.writers[-1].close()
        await until(lambda: server.count(b"SUBSCRIBE", "b") == 2)
        one.unsubscribe("b")
        await until(lambda: ear.resets == 2, subscription.CONFIRM_TIMEOUT_S)
        assert len(server.writers) == 2


async def test_a_channel_that_is_wanted_while_there_is_no_connection_is_subscribed_later(
    redis_url: str, redis: Redis
) -> None:
    async with opened(redis_url) as (one, _):
        await one.subscribe("a")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: one._wire is None)
        await one.subscribe("b")
        for channel in ("a", "b"):
            assert await listeners(redis, channel) == 1


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_answers_nothing_is_left_for_a_new_connection(
    server: FakeServer, impatient: Callable[[float], None]
) -> None:
    async with opened(server.url) as (one, ear):
        await one.subscribe("c")
        await until(lambda: ear.resets == 1)
        server.is_deaf = True
        impatient(0.3)
        await until(lambda: len(server.writers) >= 2)
        impatient(LIMIT_S)
        server.is_deaf = False
        await until(lambda: ear.resets >= 2)


async def test_pings_keep_a_silent_connection(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL_S", 0.25)
    async with opened(server.url) as (one, ear):
        await one.subscribe("c")
        await until(lambda: server.count(b"PING") > 3)
        assert (len(server.writers), ear.resets) == (1, 1)


def test_a_hanging_server_is_noticed_within_a_few_seconds() -> None:
    assert 2 * subscription.PING_INTERVAL_S <= 4.0


@contextmanager
def own_server(folder: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Redis of this test alone; it listens on a unix socket too."""
    port = free_port()
    command = [find_program().path, "--port", str(port), "--dir", str(folder), "--save", ""]
    command += ["--unixsocket", str(folder / "s"), *options]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as process:
        try:
            yield port, process
        finally:
            process.kill()


@pytest.mark.usefixtures("hasty")
async def test_a_stopped_redis_is_noticed_and_followed_when_it_goes_on(tmp_path: Path) -> None:
    with own_server(tmp_path) as (port, process):
        await until(lambda: answers(port))
        url = f"redis://127.0.0.1:{port}"
        async with opened(url) as (one, ear):
            await one.subscribe("c")
            await until(lambda: ear.resets == 1)
            wire = one._wire
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: one._wire is not wire)
            os.kill(process.pid, signal.SIGCONT)
            await until(lambda: ear.resets >= 2)
            client = connect(url)
            await client.publish("c", b"again")
            await client.aclose()
            await until(lambda: ear.heard == [("c", b"again")])


@pytest.mark.usefixtures("hasty")
async def test_passwords_users_and_unix_sockets_are_taken_from_the_url(
    tmp_path: Path, impatient: Callable[[float], None]
) -> None:
    secret = quote(PASSWORD, safe="")
    with own_server(tmp_path, "--requirepass", PASSWORD) as (port, _):
        await until((tmp_path / "s").exists)
        for url in (
            f"redis://:{secret}@127.0.0.1:{port}",
            f"redis://default:{secret}@127.0.0.1:{port}/0",
            f"unix://:{secret}@{tmp_path / 's'}",
        ):
            async with opened(url) as (one, _):
                await one.subscribe("c")
        impatient(0.3)
        for wrong in (f"redis://:no@127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
            async with opened(wrong) as (one, ear):
                with pytest.raises(LogUnavailable):
                    await one.subscribe("c")
                assert ear.resets == 0


@pytest.mark.usefixtures("hasty")
async def test_a_redis_that_is_not_there_yet_is_waited_for(
    impatient: Callable[[float], None],
) -> None:
    port = free_port()
    impatient(0.3)
    async with opened(f"redis://127.0.0.1:{port}") as (one, ear):
        with pytest.raises(LogUnavailable):
            await one.subscribe("c")
        impatient(LIMIT_S)
        fake = FakeServer()
        server = await asyncio.start_server(fake._serve, "127.0.0.1", port)
        try:
            await one.subscribe("c")
            await until(lambda: ear.resets == 1)
        finally:
            server.close()
            for writer in fake.writers:
                writer.close()


async def test_nothing_is_left_after_the_block(redis_url: str, redis: Redis) -> None:
    before = asyncio.all_tasks()
    async with opened(redis_url) as (one, _):
        await one.subscribe("c")
        assert len(await redis.client_list(_type="pubsub")) == 1
    assert asyncio.all_tasks() == before
    async with asyncio.timeout(LIMIT_S):
        while True:
            if await redis.client_list(_type="pubsub") == []:
                return
