"""T14 and T15: equal POSTs are one generation, and a conversation never has two writers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
from redis import Redis

from api.dialects import openai_chat
from api.opening import Caller
from api.requests import Place
from replay.identity import Conversation
from replay.log_values import IfBusy
from replay.records import NewSession
from replay.redis_log import RedisLog
from replay.redis_plane import connect
from tests.protocol.wire import CHAT, DONE, asking, end_comment, events, text_of, until

from .breakable import Breakable, answer_to, prompt_of

CALLERS = 200
WORDS = "[[tokens=150 rate=60 seed=5]]"
SLOW = "[[tokens=240 rate=40 seed=5]]"
POLICIES = ("replace", "attach", "queue", "reject")
POSTS_EACH = 6
ALL_BYTES = 1 << 40
ASK_TIMEOUT_S = 60.0

LIVE = """
local live = 0
for _, record in ipairs(redis.call('KEYS', ARGV[1])) do
  local state = redis.call('HGET', record, 'state')
  if state == 'queued' or state == 'loading' or state == 'running' then live = live + 1 end
end
return live
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``asked`` is how many nodes were asked for it."""

    status: int
    headers: httpx.Headers
    body: bytes
    asked: int = 1


def records_of(db: Redis, base: str) -> list[bytes]:
    """The keys of the session records of a conversation."""
    return list(db.scan_iter(f"rc:{{default:{base}}}:*:record", count=1000))


def body_of(words: str) -> bytes:
    """What is asked."""
    return json.dumps(asking(words, stream=True)).encode()


def client_of() -> httpx.AsyncClient:
    """A client with a connection for each request."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, timeout=ASK_TIMEOUT_S)


async def asked(
    client: httpx.AsyncClient, url: str, body: bytes, *, key: str = "", name: str = "", **query: str
) -> Answer:
    """One POST. Raises httpx.TransportError where its node dies."""
    given = {"Idempotency-Key": key, "X-Conversation-Id": name}
    headers = {header: value for header, value in given.items() if value}
    answer = await client.post(url + CHAT, headers=headers, content=body, params=query)
    return Answer(answer.status_code, answer.headers, answer.content)


async def insisting(client: httpx.AsyncClient, urls: list[str], key: str, body: bytes) -> Answer:
    """The same POST to one node after the other, until one answers to the end."""
    for number, url in enumerate(urls):
        try:
            answer = await asked(client, url, body, key=key)
        except httpx.TransportError:
            continue
        return dataclasses.replace(answer, asked=number + 1)
    raise AssertionError("no node answered")


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """A cluster that nodes are taken from."""
    with Breakable(tmp_path_factory.mktemp("intents"), nodes=3).running() as cluster:
        yield cluster


@pytest.mark.guarantee("T14")
@pytest.mark.parametrize("moment", ["in the claim", "in the stream"])
def test_equal_posts_are_one_generation_though_a_node_dies(
    three_nodes: Breakable, name: str, moment: str
) -> None:
    cluster = three_nodes.well()
    urls = [node.url for node in cluster.nodes]
    body = body_of(WORDS)
    base = f"~key%3A{name}"

    def has_come() -> bool:
        found = records_of(cluster.db, base)
        said = found and int(cluster.db.hget(found[0], "token_count") or 0)
        return bool(found if moment == "in the claim" else said)

    async def storm() -> list[Answer]:
        async with client_of() as client:
            callers = [
                asyncio.create_task(insisting(client, urls[n % 3 :] + urls[: n % 3], name, body))
                for n in range(CALLERS)
            ]
            await asyncio.to_thread(until, has_come)
            await asyncio.to_thread(cluster.kill, "api-2")
            return await asyncio.gather(*callers)

    answers = asyncio.run(storm())
    assert max(answer.asked for answer in answers) > 1
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    for header in ("x-stream-epoch", "x-completion-id", "x-stream-offset", "x-conversation-id"):
        assert len({answer.headers[header] for answer in answers}) == 1
    assert text_of(events(answers[0].body)) == answer_to(WORDS)
    [record] = records_of(cluster.db, base)
    kept = cluster.db.hmget(record, "state", "attempt", "token_count")
    assert kept == [b"completed", b"1", b"150"]
    until(lambda: cluster.db.zcard("rc:queue:scripted") == 0)


async def claim_and_die(redis_url: str, key: str) -> None:
    """What a node does that dies between the opening of the session and its job."""
    asked_for = openai_chat.parse(json.loads(body_of(WORDS)), random_seed=0)
    conversation = Conversation("default", f"~key:{key}")
    caller = Caller("default", conversation.id, key, IfBusy.REPLACE, 0.0, Place())
    new = NewSession(
        conversation=conversation,
        name=conversation.id,
        model=Breakable.model,
        dialect="openai.chat",
        request=dataclasses.replace(asked_for, model=Breakable.model).to_json(),
        prompt=tuple(prompt_of(WORDS)),
        prefill_chunk_tokens=512,
        completion_id="chatcmpl-claimed",
        id_seed="",
        retention_s=600,
        ping_interval_s=15,
        queue_number=1,
        idempotency_key=key,
        request_sha256=caller.request_sha256("openai.chat", body_of(WORDS)),
    )
    async with connect(redis_url) as redis:
        log = RedisLog(redis)
        await log.watch(conversation, 0)
        await log.open(new, arrived_ms=math.inf, nonce="claimer")


@pytest.mark.guarantee("T14")
def test_a_claimer_that_dies_before_it_queues_leaves_nobody_waiting(
    three_nodes: Breakable, name: str
) -> None:
    cluster = three_nodes.well()
    asyncio.run(claim_and_die(cluster.redis.url, name))

    async def storm() -> list[Answer]:
        async with client_of() as client:
            posts = [
                asked(client, cluster.nodes[n % 3].url, body_of(WORDS), key=name) for n in range(9)
            ]
            return await asyncio.gather(*posts)

    answers = asyncio.run(storm())
    assert {answer.headers["x-completion-id"] for answer in answers} == {"chatcmpl-claimed"}
    [body] = {answer.body for answer in answers}
    assert text_of(events(body)) == answer_to(WORDS) and body.endswith(DONE)


@pytest.mark.guarantee("T14")
def test_a_key_outlives_what_redis_remembers(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(nodes=1, workers=1, REPLAY_LEASE_S="4")  # the worker's time to speak up
    [node] = cluster.nodes
    headers = {b"Idempotency-Key": name.encode()}
    with node.exchange("POST", CHAT, headers, body_of(SLOW)) as first:
        first.first(1)
        cluster.redis.restart(lost_bytes=ALL_BYTES)

    async def repeated() -> Answer:
        async with client_of() as client:
            while True:
                with suppress(httpx.TransportError):
                    answer = await asked(client, node.url, body_of(SLOW), key=name)
                    if answer.status != 503:
                        return answer
                await asyncio.sleep(0.1)  # as Retry-After wants, but sooner

    answer = asyncio.run(repeated())
    assert answer.headers["x-completion-id"] == first.headers["x-completion-id"]
    assert answer.body.startswith(first.data)
    assert text_of(events(answer.body)) == answer_to(SLOW)


@contextmanager
def watched(db: Redis, base: str) -> Iterator[Callable[[], set[int]]]:
    """A block in which it is counted over and over how many sessions of a base are live."""
    seen: set[int] = set()
    is_over = threading.Event()

    def count() -> None:
        while not is_over.is_set():
            seen.add(int(db.eval(LIVE, 0, f"rc:{{default:{base}}}:*:record")))

    watcher = threading.Thread(target=count)
    watcher.start()
    try:
        yield lambda: seen
    finally:
        is_over.set()
        watcher.join()


def words_by_completion(db: Redis, base: str) -> dict[str, str]:
    """What each session of the base was asked; every one was claimed once at most."""
    found = {}
    for record in records_of(db, base):
        completion_id, request, attempt = db.hmget(record, "completion_id", "request", "attempt")
        found[completion_id.decode()] = json.loads(request)["messages"][0]["content"]
        assert int(attempt) <= 1
    return found


def assert_told(policy: str, own: str, answer: Answer, words_of: dict[str, str]) -> None:
    """The answer is what the policy promises to who asked with ``own`` words."""
    if answer.status == 409:
        assert policy == "reject" and json.loads(answer.body)["error"]["current_epoch"]
        return
    words = words_of[answer.headers["x-completion-id"]]
    assert words == own or policy == "attach"
    if answer.status == 400:
        assert json.loads(answer.body)["error"]["reason"] == "replaced"
    elif answer.body.endswith(DONE):
        assert text_of(events(answer.body)) == answer_to(words)
    else:
        assert answer.body.endswith(end_comment("stopped", "replaced"))
        assert answer_to(words).startswith(text_of(events(answer.body)))


@pytest.mark.guarantee("T15")
def test_whatever_is_done_when_busy_there_is_one_writer(three_nodes: Breakable, name: str) -> None:
    cluster = three_nodes.well()
    urls = [node.url for node in cluster.nodes]
    storm = [
        (policy, f"[[tokens=24 rate=100 seed={4 * number + place}]]")
        for number in range(POSTS_EACH)
        for place, policy in enumerate(POLICIES)
    ]

    async def answers_of() -> list[Answer]:
        async with client_of() as client:
            posts = [
                asked(client, urls[number % 3], body_of(words), name=name, if_busy=policy)
                for number, (policy, words) in enumerate(storm)
            ]
            return await asyncio.gather(*posts)

    with watched(cluster.db, name) as live:
        answers = asyncio.run(answers_of())
    assert max(live()) == 1
    words_of = words_by_completion(cluster.db, name)
    for (policy, words), answer in zip(storm, answers, strict=True):
        assert_told(policy, words, answer, words_of)
    reasons = [cluster.db.hget(record, "reason") for record in records_of(cluster.db, name)]
    assert reasons.count(b"replaced") <= POSTS_EACH  # no other policy stops anything
    opened = [words for policy, words in storm if policy in ("replace", "queue")]
    assert set(opened) <= set(words_of.values()) and len(words_of) == len(set(words_of.values()))
