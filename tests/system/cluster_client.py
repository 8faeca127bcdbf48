"""A client that may be at any node of a cluster: it posts, reads, looks up and stops.

It knows HTTP alone, and the log's frames as any client sees them.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from deploy.local.cluster import Cluster

WAIT_S = 60.0
"""Bound of every wait; a machine that is busy with other tests must not fail these."""

LOOK_S = 0.02
LIMITS = httpx.Limits(max_connections=None)
CHAT = "/v1/chat/completions"
STREAM = "/v1/stream"


async def eventually(condition: Callable[[], Awaitable[Any]], limit_s: float = WAIT_S) -> Any:
    """The first true value that the condition comes to within ``limit_s``."""
    async with asyncio.timeout(limit_s):
        while not (value := await condition()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(LOOK_S)
    return value


def events(log: bytes) -> list[dict[str, Any]]:
    """The JSON of every event of a whole log."""
    frames = [frame for frame in log.split(b"\n\n") if frame.startswith(b"data: {")]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def text_of(log: bytes) -> str:
    """What the answer in a whole log says."""
    choices = [choice for event in events(log) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def end_of(log: bytes) -> dict[str, str]:
    """What the last comment of a log that did not complete says: state and reason."""
    last = log.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    end: dict[str, str] = json.loads(last.removeprefix(b": end "))
    return end


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in a refusal."""
    error: dict[str, Any] = response.json()["error"]
    return error


class Reader:
    """One response that is read in the background; leaving the block hangs up.

    ``data`` is what has come so far. ``ended`` is "" while it is open, then "whole" after a clean
    end and "cut" after any other.
    """

    def __init__(self, client: httpx.AsyncClient, method: str, url: str, **more: Any) -> None:
        self._client = client
        self._asked = (method, url)
        self._more = more
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.data = b""
        self.ended = ""
        self.response: httpx.Response | None = None

    async def __aenter__(self) -> Reader:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        ended = "cut"
        try:
            async with self._client.stream(*self._asked, **self._more) as response:
                self.response = response
                await self._tell()
                async for part in response.aiter_raw():
                    self.data += part
                    await self._tell()
            ended = "whole"
        except httpx.TransportError:
            pass
        self.ended = ended
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(condition)

    async def head(self) -> httpx.Response:
        """The response once its status line is there."""
        await self._until(lambda: self.response is not None or bool(self.ended))
        assert self.response is not None, "cut before the status line"
        return self.response

    async def has(self, size: int) -> bytes:
        """At least the first ``size`` bytes."""
        await self._until(lambda: len(self.data) >= size or bool(self.ended))
        assert len(self._body(200)) >= size, f"{self.ended} after {len(self.data)} bytes"
        return self.data

    async def grows(self) -> bytes:
        """More than there is now."""
        return await self.has(len(self.data) + 1)

    async def whole(self) -> bytes:
        """Everything, after a clean end."""
        return await self._all("whole")

    async def cut(self) -> bytes:
        """Everything that came before an unclean end."""
        return await self._all("cut")

    async def refused(self, status: int) -> dict[str, Any]:
        """The error, where the answer is one."""
        await self._all("whole", status)
        error: dict[str, Any] = json.loads(self.data)["error"]
        return error

    async def _all(self, ended: str, status: int = 200) -> bytes:
        await self._until(lambda: bool(self.ended))
        assert self.ended == ended
        return self._body(status)

    def _body(self, status: int) -> bytes:
        assert self.response is not None, "cut before the status line"
        assert self.response.status_code == status, self.data
        return self.data


class Client:
    """Talks to each node by its own address; ``node`` counts from 0. ``key`` is the API key."""

    def __init__(self, cluster: Cluster, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        more: dict[str, Any] = {"headers": headers, "timeout": WAIT_S, "limits": LIMITS}
        self.cluster = cluster
        self.nodes = [httpx.AsyncClient(base_url=url, **more) for url in cluster.nodes]
        self.front = httpx.AsyncClient(base_url=cluster.front, **more)
        self._names: set[str] = set()
        self._killed: list[int] = []

    async def aclose(self) -> None:
        """Leaves the cluster as it was, also after a test that failed: idle, nobody dying."""
        for pid in self._killed:
            await self.gone(pid)
        for name in self._names:
            with suppress(httpx.HTTPError):
                await self.front.delete(STREAM, params={"conv_id": name})
        for client in (*self.nodes, self.front):
            await client.aclose()

    def kill(self, child: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a node or worker by its name; the pid that got it."""
        pid = self.cluster.kill(child, number)
        self._killed.append(pid)
        return pid

    async def gone(self, pid: int) -> None:
        """Returns once the launcher has seen that a process is dead."""

        async def seen() -> bool:
            return pid not in self.cluster.pids.values()

        await eventually(seen)

    async def post(
        self, name: str | None, words: str, *, node: int = 0, **body: Any
    ) -> httpx.Response:
        """Asks and waits for the whole answer; ``name`` None is a plain request."""
        return await self.nodes[node].post(CHAT, **self._asked(name, words, body))

    def posting(self, name: str | None, words: str, *, node: int = 0, **body: Any) -> Reader:
        """Asks for a stream, to be read in a block."""
        asked = self._asked(name, words, {"stream": True, **body})
        return Reader(self.nodes[node], "POST", CHAT, **asked)

    def _asked(self, name: str | None, words: str, body: dict[str, Any]) -> dict[str, Any]:
        if name is not None:
            self._names.add(name)
        messages = [{"role": "user", "content": words}]
        return {"headers": named(name), "json": {"messages": messages, "temperature": 0, **body}}

    async def read(self, name: str, *, node: int = 0, **query: Any) -> httpx.Response:
        """The session's bytes; ``from_`` is the offset."""
        return await self.nodes[node].get(STREAM, params=_addressed(name, query))

    def reading(self, name: str, *, node: int = 0, **query: Any) -> Reader:
        """The same, to be read in a block."""
        return Reader(self.nodes[node], "GET", STREAM, params=_addressed(name, query))

    async def log(self, name: str, *, node: int = 0) -> bytes:
        """The whole log of a session, read to its end."""
        response = await self.read(name, node=node)
        assert response.status_code == 200, response.text
        return response.content

    async def stop(self, name: str, *, node: int = 0, **query: Any) -> httpx.Response:
        """Stops the session, and evicts it unless ``keep`` is true."""
        return await self.nodes[node].delete(STREAM, params=_addressed(name, query))

    async def lookup(self, *names: str, node: int = 0) -> list[dict[str, Any]]:
        """What lookup tells of these names."""
        body = {"conversation_ids": names}
        response = await self.nodes[node].post("/v1/streams/lookup", json=body)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()
        return found

    async def state(self, name: str, *, node: int = 0) -> str:
        """The session's state, "" where there is none."""
        found = await self.lookup(name, node=node)
        return str(found[0]["state"]) if found else ""

    async def reaches(self, name: str, state: str, *, node: int = 0) -> dict[str, Any]:
        """The session as lookup tells it, once it is in that state."""

        async def found() -> list[dict[str, Any]]:
            return [one for one in await self.lookup(name, node=node) if one["state"] == state]

        return dict((await eventually(found))[0])

    async def place(self, name: str, *, node: int = 0) -> int:
        """The session's place in the queue, once it has one: it is opened before it is queued."""

        async def found() -> list[int]:
            places = [one["queue_position"] for one in await self.lookup(name, node=node)]
            return [one for one in places if one is not None]

        return int((await eventually(found))[0])

    async def slots(self, *, node: int = 0) -> tuple[int, int]:
        """How many slots are free, and how many there are, over all workers."""
        [model] = (await self.nodes[node].get("/v1/models")).json()["data"]
        return model["meta"]["slots_free"], model["meta"]["slots"]

    async def idle(self, limit_s: float = WAIT_S, *, node: int = 0) -> None:
        """Returns once every slot is free."""

        async def all_free() -> bool:
            free, total = await self.slots(node=node)
            return free == total

        await eventually(all_free, limit_s)

    @asynccontextmanager
    async def full(self) -> AsyncIterator[list[str]]:
        """A block during which every slot is taken, on a scripted cluster; yields by whom."""
        await self.idle()
        _, total = await self.slots()
        names = [f"full-{number}" for number in range(total)]
        try:
            for name in names:
                await self._leave(name, "[[tokens=100000 rate=20]]")
            for name in names:
                await self.reaches(name, "running")
            yield names
        finally:
            for name in names:
                await self.stop(name, keep="true")

    async def _leave(self, name: str, words: str) -> None:
        """Posts and hangs up as soon as the session is there."""
        before = {one["epoch"] for one in await self.lookup(name)}

        async def opened() -> bool:
            return any(one["epoch"] not in before for one in await self.lookup(name))

        async with self.posting(name, words):
            await eventually(opened)


@asynccontextmanager
async def client_of(cluster: Cluster, key: str = "") -> AsyncIterator[Client]:
    """A client for a block."""
    client = Client(cluster, key)
    try:
        yield client
    finally:
        await client.aclose()


def stream_addresses(name: str) -> Iterator[str]:
    """Every form in which a client may name a session to GET and DELETE."""
    yield str(httpx.URL(STREAM, params={"conv_id": name}))
    yield f"{STREAM}/{quote(name, safe='/:')}"
    yield f"{STREAM}/{quote(name, safe='')}"


def named(name: str | None) -> dict[bytes, bytes]:
    """The header that names a session."""
    return {} if name is None else {b"X-Conversation-Id": name.encode()}


def _addressed(name: str, query: dict[str, Any]) -> dict[str, Any]:
    return {"conv_id": name, **{key.rstrip("_"): value for key, value in query.items()}}
