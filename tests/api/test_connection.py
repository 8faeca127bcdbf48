"""A connection under watch: leaving, being cut, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_harness import wait_until

from api.connection import CUT, Comeback, Connection, Connections, lifetime

pytestmark = pytest.mark.anyio


class Client:
    """The server's side of ASGI, with a client that leaves when it is told."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.aborted = 0

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self.takes.wait()
        self.sent.append(message)

    def abort(self) -> None:
        self.aborted += 1
        self.gone.set()

    def connection(
        self, *, abortable: bool = True, comeback: Comeback = Comeback.REPEAT
    ) -> Connection:
        scope = {"extensions": {CUT: self.abort} if abortable else {}}
        return Connection(scope, self.receive, self.send, self.send, comeback)

    async def answered(self, connections: Connections, connection: Connection) -> None:
        """An answer that lasts until its client is gone."""
        connections.add(connection)
        async with connection:
            await self.gone.wait()
        connections.discard(connection)


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> Any:
    yield
    assert "connection" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_block_that_is_through_leaves_no_trace() -> None:
    client = Client()
    async with client.connection() as connection:
        await connection.start(200, [])
        await connection.body(b"x")
        await connection.finish()
    assert not connection.left
    assert [message["type"] for message in client.sent] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]


async def test_the_block_ends_when_the_client_leaves() -> None:
    client = Client()
    async with asyncio.timeout(5):
        async with client.connection() as connection:
            client.gone.set()
            await asyncio.Event().wait()
    assert connection.left and not connection.needs_raise


async def test_leaving_does_not_cancel_what_follows() -> None:
    client = Client()
    async with client.connection() as connection:
        client.gone.set()
        await asyncio.sleep(0)  # the watcher has seen it; its cancellation is under way
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    assert connection.left


async def test_an_error_is_not_swallowed_by_leaving() -> None:
    client = Client()
    with pytest.raises(ZeroDivisionError):
        async with client.connection():
            client.gone.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_cancellation_from_outside_goes_on() -> None:
    client = Client()
    entered = asyncio.Event()

    async def block() -> None:
        async with client.connection():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("abortable", [True, False])
async def test_a_cut_ends_the_block_without_a_final_chunk(abortable: bool) -> None:
    client = Client()
    async with client.connection(abortable=abortable) as connection:
        await connection.start(200, [])
        connection.cut()
        await asyncio.Event().wait()
    assert connection.left
    assert client.aborted == int(abortable)
    assert connection.needs_raise is not abortable
    assert len(client.sent) == 1


async def test_only_those_who_take_nothing_are_slow() -> None:
    slow, quick = Client(), Client()
    slow.takes.clear()
    connections = Connections()

    async def answer(client: Client, connection: Connection) -> None:
        async with connection:
            await connection.start(200, [])
            await connection.body(b"x")
            await asyncio.Event().wait()

    pairs = [(client, client.connection()) for client in (slow, quick)]
    tasks = [asyncio.create_task(answer(*pair)) for pair in pairs]
    for _, connection in pairs:
        connections.add(connection)
    await wait_until(lambda: pairs[0][1].sending_since > 0 and bool(quick.sent))
    assert connections.cut_slow(60) == 0
    assert connections.cut_slow(-1) == 1
    assert (slow.aborted, quick.aborted) == (1, 0)
    await connections.cut_all(0)
    await asyncio.gather(*tasks)
    assert len(connections) == 0


async def test_cuts_are_spread() -> None:
    loop = asyncio.get_running_loop()
    connections = Connections()
    clients = [Client() for _ in range(5)]
    tasks = [
        asyncio.create_task(client.answered(connections, client.connection())) for client in clients
    ]
    await wait_until(lambda: len(connections) == 5)
    before = loop.time()
    await connections.cut_all(0.2)
    await asyncio.gather(*tasks)
    assert 0.15 <= loop.time() - before < 20


async def test_who_cannot_come_back_is_cut_last_and_has_all_the_time_to_finish() -> None:
    connections, cut = Connections(), []
    clients = {comeback: Client() for comeback in reversed(Comeback)}

    async def answered(comeback: Comeback, client: Client) -> None:
        await client.answered(connections, client.connection(comeback=comeback))
        cut.append(comeback)

    tasks = [asyncio.create_task(answered(*pair)) for pair in clients.items()]
    await wait_until(lambda: len(connections) == len(clients))
    draining = asyncio.create_task(connections.cut_all(60))
    await wait_until(lambda: cut == [Comeback.REPEAT])
    draining.cancel()
    draining = asyncio.create_task(connections.cut_all(0.1))
    await asyncio.gather(*tasks, draining)
    assert cut == list(Comeback)


async def test_a_drain_is_over_when_the_last_answer_is() -> None:
    connections, client = Connections(), Client()
    plain = client.connection(comeback=Comeback.NONE)
    answering = asyncio.create_task(client.answered(connections, plain))
    await wait_until(lambda: len(connections) == 1)
    draining = asyncio.create_task(connections.cut_all(60))
    await asyncio.sleep(0)
    client.gone.set()
    async with asyncio.timeout(5):
        await asyncio.gather(answering, draining)
    assert client.aborted == 0


async def test_only_what_can_be_repeated_grows_old() -> None:
    connections = Connections(age_s=0.01)
    clients = {comeback: Client() for comeback in Comeback}
    tasks = [
        asyncio.create_task(client.answered(connections, client.connection(comeback=comeback)))
        for comeback, client in clients.items()
    ]
    await wait_until(lambda: connections.cut_old() == 1)
    await asyncio.gather(tasks[0])
    assert [client.aborted for client in clients.values()] == [1, 0, 0]
    await connections.cut_all(0)
    await asyncio.gather(*tasks)


async def test_a_lifetime_ends_in_its_second_half() -> None:
    drawn = {lifetime(100) for _ in range(1000)}
    assert 50 <= min(drawn) < 60 and 90 < max(drawn) <= 100
    assert lifetime(0) == float("inf")
