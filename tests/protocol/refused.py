"""How each error comes about, over HTTP: who asks, and what is wrong then.

A scenario is asked in one dialect and returns what came back. What it takes to get there (another
cluster, a fault, a busy conversation) stays so for the dialects after it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from deploy.local.cluster import Cluster
from deploy.local.ports import free_block
from replay import frames, keys
from replay.prepare import Answer, Prepared, Question, Refused, Result
from replay.records import State

from .conftest import made
from .stored import Plant, Stored, encoded, planted, stored
from .wire import WAIT_S, Node, target

OPENAI, RESPONSES, COMPLETIONS = "openai", "responses", "completions"
ANTHROPIC, NATIVE, VERTEX = "anthropic", "native", "vertex"
ROUTES = {
    OPENAI: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    COMPLETIONS: "/v1/completions",
    ANTHROPIC: "/v1/messages",
    NATIVE: "/completion",
    VERTEX: "/predict",
}
SHORT = "[[tokens=4 rate=0]]"
LONG = "[[tokens=100000 rate=20]]"
BODY_BYTES_MAX = 20_000
LINE_MAX = 1000
KEYS = """owner tenant=owner
reader tenant=owner scopes=read
crowd tenant=crowd
"""
LOOPBACK = "127.0.0.1"


def body_of(dialect: str, words: str, **fields: Any) -> dict[str, Any]:
    """What asks for these words in a dialect."""
    said = {"messages": [{"role": "user", "content": words}]}
    asked = {RESPONSES: {"input": words}, NATIVE: {"prompt": words}, COMPLETIONS: {"prompt": words}}
    if dialect == VERTEX:
        return {"instances": [{"@requestFormat": "chatCompletions", **said, **fields}]}
    return {**asked.get(dialect, said), **fields}


@contextmanager
def strict_cluster(folder: Path) -> Iterator[Cluster]:
    """A node that Vertex AI runs, with keys, links and narrow limits."""
    (folder / "keys").write_text(KEYS)
    port = free_block(LOOPBACK, 2)
    settings = {
        "REPLAY_API_KEYS_FILE": str(folder / "keys"),
        "REPLAY_LINK_SECRETS": "a secret of this cluster alone",
        "REPLAY_BODY_BYTES_MAX": str(BODY_BYTES_MAX),
        "REPLAY_TENANT_LIVE_MAX": "1",
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": str(port + 1),
    }
    arguments = ("--workers", "1", "--api-nodes", "1", "--port", str(port))
    with made(folder / "state", *arguments, **settings) as cluster:
        yield cluster


class World:
    """All that a scenario may need; what it has begun ends with ``stack``."""

    def __init__(self, request: pytest.FixtureRequest, stack: ExitStack) -> None:
        self._request = request
        self._stack = stack

    @cached_property
    def node(self) -> Node:
        """A node of the cluster that most tests share."""
        node: Node = self._request.getfixturevalue("node")
        return node

    @cached_property
    def db(self) -> Redis:
        """Its Redis."""
        db: Redis = self._request.getfixturevalue("db")
        return db

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Who waits for an answer, while the test does something."""
        return self._stack.enter_context(ThreadPoolExecutor(1))

    def strict(self, key: str) -> Node:
        """The node that allows little, for whoever has this key."""
        cluster: Cluster = self._request.getfixturevalue("strict")
        node = Node(cluster.nodes[0], key)
        self._stack.callback(node.http.close)
        return node

    @cached_property
    def cut_off(self) -> Node:
        """A node whose Redis is away."""
        frail = self._request.getfixturevalue("frail")
        self._stack.enter_context(frail.log_plane.out())
        node: Node = frail.nodes[0]
        return node

    @cached_property
    def busy(self) -> str:
        """A conversation whose session is live."""
        name = self.name()
        self._stack.enter_context(self.node.posting(name, LONG)).first(1)
        return name

    @cached_property
    def crowded(self) -> Node:
        """A node for a tenant that has as many live sessions as it may."""
        node = self.strict("crowd")
        self._stack.enter_context(node.posting(self.name(node), LONG)).first(1)
        return node

    @cached_property
    def ghost(self) -> str:
        """A model of a worker that exists as a record alone; the test gives its answers."""
        return self._ghost("loaded")

    @cached_property
    def failed_ghost(self) -> str:
        """Such a model that could not be loaded."""
        return self._ghost("failed")

    def _ghost(self, status: str) -> str:
        name = f"ghost-{secrets.token_hex(4)}"
        self._request.getfixturevalue("ghost")({"name": name, "status": status})
        return name

    def name(self, node: Node | None = None) -> str:
        """A conversation of nobody else, in which nothing is left."""
        name, at = f"c-{secrets.token_hex(6)}", node or self.node
        self._stack.callback(at.stop, name)
        return name

    def plant(self, *chunks: bytes, **fields: Any) -> Stored:
        """A session that another implementation has written."""
        return planted(self.db, Plant(self.name(), chunks, **fields))

    def ask(
        self,
        dialect: str,
        words: str = SHORT,
        *,
        node: Node | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """What comes back, of a short answer if it is one."""
        at = node or (self.strict("owner") if dialect == VERTEX else self.node)
        route = target(ROUTES[dialect], **query or {})
        return at.http.post(route, headers=headers, json=body_of(dialect, words, **fields))

    def asked_of_ghost(
        self, dialect: str, name: str, result: Result, before: Callable[[], object] = bool
    ) -> Callable[[], httpx.Response]:
        """Asks for a model whose worker's word on the request is ``result``, given after
        ``before``; the call returns what comes back."""
        headers = {"X-Conversation-Id": name}
        coming = self.pool.submit(self.ask, dialect, headers=headers, model=self.ghost)
        taken = self.db.blpop([keys.prepare(self.ghost)], timeout=WAIT_S)
        question = Question.from_json(taken[1])
        before()
        inbox = keys.inbox(question.node)
        self.db.rpush(inbox, Answer(question.id, result).to_json())
        self.db.expire(inbox, 10)
        return coming.result


def invalid(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, temperature="hot")


def without_key(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, node=world.strict(""))


def without_scope(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, node=world.strict("reader"))


def by_bad_link(world: World, dialect: str) -> httpx.Response:
    return world.strict("").http.get("/v1/stream/c?link=read.1.x.y")


def of_no_route(world: World, dialect: str) -> httpx.Response:
    return world.node.http.put(ROUTES[dialect])


def too_large(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, "x" * BODY_BYTES_MAX, node=world.strict("owner"))


def too_many(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, node=world.crowded)


def too_long(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, "x" * 9000)


def of_failed_model(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, model=world.failed_ghost)


def while_busy(world: World, dialect: str) -> httpx.Response:
    headers = {"X-Conversation-Id": world.busy}
    return world.ask(dialect, headers=headers, query={"if_busy": "reject"})


def of_broken_worker(world: World, dialect: str) -> httpx.Response:
    return world.asked_of_ghost(dialect, world.name(), Refused("engine", "it broke"))()


def of_other_ability(world: World, dialect: str) -> httpx.Response:
    return world.asked_of_ghost(dialect, world.name(), Refused("unsupported", "it cannot"))()


def stopped_before_a_word(world: World, dialect: str) -> httpx.Response:
    name = world.name()
    headers = {"X-Conversation-Id": name}
    coming = world.pool.submit(world.ask, dialect, "[[prefill_s=60]]", headers=headers)
    world.node.reaches(name, "running")
    world.node.stop(name)
    return coming.result()


def failed_before_a_word(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, "[[fail_at=0]]")


def given_up(world: World, dialect: str) -> httpx.Response:
    """No worker has come for it in all the time that it may wait."""
    name, prepared = world.name(), Prepared((1,), prefill_chunk_tokens=32)
    answer = world.asked_of_ghost(dialect, name, prepared)
    world.node.reaches(name, "queued")
    session = stored(world.db, name)
    spoken: Any = session.fields["dialect"]
    session.conclude("failed", "limit", frames.closing(spoken, State.FAILED, "limit"))
    world.db.delete(session.keys.queue)
    return answer()


def unknown(world: World, dialect: str) -> httpx.Response:
    if dialect == RESPONSES:
        return world.node.http.get("/v1/responses/resp_unknown")
    return world.node.read("c-unknown")


def expired(world: World, dialect: str) -> httpx.Response:
    """Its key is known for longer than what it has opened."""
    name = world.name()
    headers = {"X-Conversation-Id": name, "Idempotency-Key": "key"}
    assert world.ask(dialect, headers=headers).status_code == 200
    session = stored(world.db, name)
    world.db.delete(session.keys.record, session.keys.stream, session.keys.tokens)
    return world.ask(dialect, headers=headers)


def from_nowhere(world: World, dialect: str) -> httpx.Response:
    session = world.plant()
    return world.node.read(session.keys.conversation, from_="-1")


def from_before_the_window(world: World, dialect: str) -> httpx.Response:
    session = world.plant(b":\n\n", start=9)
    return world.node.read(session.keys.conversation, from_=8)


def from_beyond_the_end(world: World, dialect: str) -> httpx.Response:
    session = world.plant(b":\n\n", state="completed", reason="stop")
    return world.node.read(session.keys.conversation, from_=4)


def from_a_doubt(world: World, dialect: str) -> httpx.Response:
    more = {"doubt": 3, "doubt_end": 6, "doubts": 1}
    session = world.plant(b":\n\n", b":\n\n", more=more)
    return world.node.read(session.keys.conversation, from_=6)


def of_another_epoch(world: World, dialect: str) -> httpx.Response:
    if dialect == RESPONSES:
        headers = {"X-Conversation-Id": world.name()}
        first, _ = (world.ask(dialect, headers=headers).json() for _ in range(2))
        return world.node.http.delete(f"/v1/responses/{first['id']}")
    session = world.plant(b":\n\n")
    return world.node.read(session.keys.conversation, epoch=session.keys.epoch + 1)


def stopped_while_checked(world: World, dialect: str) -> httpx.Response:
    name, prepared = world.name(), Prepared((1,), prefill_chunk_tokens=32)
    return world.asked_of_ghost(dialect, name, prepared, lambda: world.node.stop(name))()


def with_a_used_key(world: World, dialect: str) -> httpx.Response:
    headers = {"X-Conversation-Id": world.name(), "Idempotency-Key": "key"}
    assert world.ask(dialect, headers=headers).status_code == 200
    return world.ask(dialect, headers=headers, top_k=1)


def in_a_full_line(world: World, dialect: str) -> httpx.Response:
    line = f"rc:{{default:{encoded(world.busy)}}}:line:{encoded(world.busy)}"
    world.db.zadd(line, {f"nonce-{number}": number for number in range(LINE_MAX)})
    world.db.expire(line, 60)
    headers = {"X-Conversation-Id": world.busy}
    return world.ask(dialect, headers=headers, query={"if_busy": "queue"})


def without_redis(world: World, dialect: str) -> httpx.Response:
    return world.ask(dialect, node=world.cut_off, model="one")
