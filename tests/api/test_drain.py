"""How a node ends: unready at once, streams cut uncleanly, exit code 0, all within 5 s."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from node_harness import NodeHarness, error_of, eventually, served_node, wait_until

from api.drain import listening_sockets
from tests.redis_server import free_port

pytestmark = pytest.mark.anyio


def begin_drain(node: NodeHarness) -> None:
    node.app.state.server.handle_exit(signal.SIGTERM, None)


def begin_drain_now(node: NodeHarness) -> None:
    """As a second Ctrl-C does."""
    node.app.state.server.handle_exit(signal.SIGINT, None)


async def test_a_draining_node_is_unready_at_once_and_alive() -> None:
    async with served_node(drain_s=60) as node:
        posting = asyncio.create_task(node.post(name="c", stream=True))
        producer = await node.producer()
        await producer.say("hi")
        begin_drain(node)
        ready = await node.http.get("/ready")
        assert (ready.status_code, error_of(ready)["reason"]) == (503, "draining")
        assert (await node.http.get("/health")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await posting
        begin_drain_now(node)


async def test_a_load_balancer_has_time_to_notice() -> None:
    async with served_node(notice_s=60, drain_s=60) as node:
        posting = asyncio.create_task(node.post(name="c", stream=True))
        producer = await node.producer()
        await producer.say("hi")
        begin_drain(node)
        await wait_until(lambda: "drain" in {task.get_name() for task in asyncio.all_tasks()})
        async with httpx.AsyncClient(base_url=node.http.base_url) as newcomer:
            answer = await newcomer.get("/health")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await producer.complete()
        assert (await posting).content.endswith(b"[DONE]\n\n")
        begin_drain_now(node)


async def test_nothing_is_begun_that_would_be_cut() -> None:
    async with served_node(drain_s=60) as node:
        await node.answered("done")
        posting = asyncio.create_task(node.post())
        producer = await node.producer()
        begin_drain(node)
        await wait_until(lambda: node.app.state.presence.closed)
        for answer in (await node.post(name="c"), await node.http.get("/v1/stream/done")):
            assert (answer.status_code, error_of(answer)["reason"]) == (503, "draining")
            assert answer.headers["retry-after"]
        assert (await node.http.delete("/v1/stream/done")).status_code == 204
        await producer.complete()
        assert (await posting).status_code == 200


async def test_a_plain_answer_may_finish_within_the_drain() -> None:
    async with served_node(drain_s=60) as node:
        posting = asyncio.create_task(node.post())
        producer = await node.producer()
        await producer.say("hi")
        begin_drain(node)
        await wait_until(lambda: "drain" in {task.get_name() for task in asyncio.all_tasks()})
        await producer.complete()
        assert (await posting).status_code == 200


async def test_a_cut_never_looks_like_an_end(served: NodeHarness) -> None:
    got = b""
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("hi")
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        async with served.http.stream("GET", "/v1/stream/c") as response:
            begin_drain(served)
            async for part in response.aiter_raw():
                got += part
    assert b"hi" in got
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await posting


async def test_a_request_that_the_end_overtakes_is_cut_and_not_told_500(
    served: NodeHarness,
) -> None:
    url = served.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    await wait_until(lambda: bool(served.app.state.server.server_state.tasks))
    begin_drain(served)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 15) == b""
    writer.close()


async def test_a_named_session_goes_on_after_the_cut(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("hi")
    await wait_until(lambda: len(served.app.state.connections) == 1)
    await served.app.state.connections.cut_all(0)
    with pytest.raises(httpx.RemoteProtocolError):
        await posting
    await producer.complete()
    assert (await served.http.get("/v1/stream/c")).content.endswith(b"[DONE]\n\n")


async def test_a_reader_that_reads_nothing_is_cut() -> None:
    async with served_node(send_buffer_bytes=4096) as node:
        posting = asyncio.create_task(node.post(name="c"))
        producer = await node.producer()
        url = node.http.base_url
        with socket.create_connection((url.host, url.port or 80)) as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(b"GET /v1/stream/c HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_until(lambda: len(node.app.state.connections) == 2)
            for _ in range(200):
                await producer.say("x" * 10_000)
            await wait_until(lambda: node.app.state.connections.cut_slow(0.05) == 1)
            await wait_until(lambda: len(node.app.state.connections) == 1)
        await producer.complete()
        assert (await posting).status_code == 200


def test_shared_ports_can_be_bound_twice() -> None:
    port = free_port()
    made = [
        listening_sockets("127.0.0.1", [0, port], send_buffer_bytes=8192, user_timeout_s=4)
        for _ in range(2)
    ]
    try:
        first = made[0][0]
        assert first.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 8192
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [pair[1].getsockname()[1] for pair in made] == [port, port]
    finally:
        for pair in made:
            for one in pair:
                one.close()


@asynccontextmanager
async def node_process(redis_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """``python -m api`` on a real Redis, once it is ready."""
    port = free_port()
    settings = {"REPLAY_REDIS_URL": redis_url, "REPLAY_PORT": str(port), "REPLAY_NODE": "n"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api", env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url) as http:
            await eventually(lambda: _is_ready(http))
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_ends_with_0(redis_url: str, sent: signal.Signals) -> None:
    async with node_process(redis_url) as (process, url):
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/v1/models")).json() == {"object": "list", "data": []}
            assert (await http.get("/health")).headers["server"] == "replay-cluster"
        before = time.monotonic()
        process.send_signal(sent)
        assert await asyncio.wait_for(process.wait(), 5) == 0
        assert time.monotonic() - before < 5


async def test_a_node_starts_and_says_so_while_redis_is_away() -> None:
    async with served_node() as node:
        node.queue.away = True
        ready = await node.http.get("/ready")
        assert (ready.status_code, error_of(ready)["reason"]) == (503, "redis")
        assert (await node.http.get("/health")).json() == {"status": "ok"}


async def test_a_busy_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "api",
            env={**os.environ, "REPLAY_PORT": str(port)},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    assert process.returncode == 1
    assert len(said.splitlines()) == 1 and b"cannot start" in said
