"""T30: whoever guesses another tenant's id learns nothing: neither from the answer, nor from what
the node asked Redis for it, nor from the time that it took."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from redis import Redis

from deploy.local.cluster import Cluster
from tests.protocol.wire import CHAT, Node, asking, until

from .breakable import OURS

KEYS = "mine tenant=mine\ntheirs tenant=theirs\nstranger tenant=stranger\n"
LONG = "[[tokens=6000 rate=10]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
EPOCH = 1_700_000_000_000
ROUNDS, PAIRS = 10, 40
SLACK_S = 0.002
PASSING = ("date", "content-length", "request-id")


@dataclass(frozen=True)
class Probe:
    """A request that names somebody's id, wherever ``ID`` stands."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None

    def send(self, node: Node, its: str, epoch: int) -> httpx.Response:
        """Asks for this id."""

        def filled(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: filled(one) for key, one in value.items()}
            if isinstance(value, list):
                return [filled(one) for one in value]
            named = value.replace("ID", its) if isinstance(value, str) else value
            return named.replace("EPOCH", str(epoch)) if isinstance(named, str) else named

        return node.http.request(
            self.method,
            filled(self.target),
            headers=filled(self.headers),
            json=filled(self.json) if self.json is not None else None,
        )


PROBES = [
    *(
        Probe(method, target)
        for method in ("GET", "DELETE")
        for target in (
            "/v1/stream/ID",
            "/v1/stream?conv_id=ID",
            "/v1/stream?conv_id=ID::scripted",
            "/v1/stream?conv_id=ID&epoch=EPOCH",
            "/v1/stream?conv_id=ID&from=5",
            "/v1/stream?conv_id=ID&from=x",
            "/v1/stream?conv_id=ID&keep=true",
            "/v1/responses/ID",
        )
    ),
    Probe("GET", "/v1/stream?conv_id=ID", {"Last-Event-ID": "EPOCH-5"}),
    Probe("GET", "/v1/stream?conv_id=ID&ids=true", {"Last-Event-ID": "EPOCH-5"}),
    Probe("GET", "/v1/stream?conv_id=ID&view=merged"),
    Probe("GET", "/v1/responses/ID?stream=true&starting_after=3"),
    Probe("GET", "/v1/responses/ID/input_items"),
    Probe("GET", "/v1/responses/ID/input_items?after=x"),
    Probe("POST", "/v1/responses/ID/cancel"),
    Probe("POST", "/v1/streams/lookup", json={"conversation_ids": ["ID", "ID::scripted"]}),
    Probe("POST", "/v1/streams/lookup", json={"conversation_ids": ["ID"] * 10_000}),
    Probe("POST", "/v1/streams/links", json={"conversation_id": "ID"}),
    Probe("POST", "/v1/chat/completions/control", json={"id": "ID", "action": "reasoning_end"}),
    Probe("POST", "/v1/responses", json={"input": "x", "previous_response_id": "ID"}),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose keys stand in a file."""
    folder = tmp_path_factory.mktemp("tenants")
    (folder / "keys").write_text(KEYS)
    environment = {**OURS, "REPLAY_API_KEYS_FILE": str(folder / "keys")}
    with Cluster(folder / "state", "--engine", "scripted", environment=environment) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tenants(guarded: Cluster) -> Iterator[tuple[Node, Node]]:
    """Two tenants, at a node each."""
    with ExitStack() as stack:
        mine, theirs = map(Node, guarded.nodes, ("mine", "theirs"))
        for node in (mine, theirs):
            stack.callback(node.http.close)
            until(node.is_sure)
        yield mine, theirs


@pytest.fixture(scope="module")
def stranger(guarded: Cluster) -> Iterator[Node]:
    """A tenant with no session of its own, for which nobody works."""
    node = Node(guarded.nodes[1], "stranger")
    with node.http:
        yield node


@dataclass(frozen=True)
class Target:
    """What stands behind an id of the first tenant's."""

    name: str
    epoch: int
    completion_id: str


@pytest.fixture(scope="module", params=["live", "ended", "response"])
def known(request: pytest.FixtureRequest, tenants: tuple[Node, Node]) -> Iterator[Target]:
    """A session of the first tenant."""
    mine, name = tenants[0], f"c-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        if request.param == "live":
            stack.enter_context(mine.posting(name, LONG)).first(1)
        elif request.param == "ended":
            mine.post(name, SHORT)
        else:
            asked = {"input": SHORT, "background": True, "store": True}
            headers = {"X-Conversation-Id": name}
            assert mine.http.post("/v1/responses", json=asked, headers=headers).status_code == 200
            mine.reaches(name, "completed")
        found = mine.found(name)
        yield Target(name, found["epoch"], found["completion_id"])
        mine.stop(name)


def never(like: str) -> str:
    """An id of the same form that nobody has used."""
    tail = secrets.token_hex(8)
    return like[: -len(tail)] + tail


def told(response: httpx.Response, its: str) -> tuple[Any, ...]:
    """Everything that the asker can see, but the id itself."""
    headers = {key: value for key, value in response.headers.items() if key not in PASSING}
    return response.status_code, response.text.replace(its, "ID"), headers


@pytest.mark.guarantee("T30")
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.method} {probe.target}")
def test_a_foreign_id_is_answered_as_an_unknown_one(
    tenants: tuple[Node, Node], known: Target, probe: Probe
) -> None:
    mine, theirs = tenants
    before = mine.found(known.name)
    for its in (known.name, known.completion_id):
        unknown = never(its)
        foreign = told(probe.send(theirs, its, known.epoch), its)
        assert foreign == told(probe.send(theirs, unknown, EPOCH), unknown)
        assert foreign[0] != 401
    after = mine.found(known.name)
    assert (after["epoch"], after["state"]) == (before["epoch"], before["state"])


@pytest.mark.guarantee("T30")
def test_what_is_refused_to_the_stranger_is_there_for_its_owner(
    tenants: tuple[Node, Node], known: Target
) -> None:
    mine, theirs = tenants
    if known.completion_id.startswith("resp_"):
        url = f"/v1/responses/{known.completion_id}"
        assert (theirs.http.get(url).status_code, mine.http.get(url).status_code) == (404, 200)
    assert theirs.lookup(known.name) == [] and len(mine.lookup(known.name)) == 1
    assert theirs.read(known.name).status_code == 404
    assert theirs.stop(known.name).status_code == 204
    with mine.reading(known.name) as reading:
        assert reading.status == 200 and reading.first(1)


@pytest.mark.guarantee("T30")
@pytest.mark.parametrize("policy", ["replace", "attach", "reject", "queue"])
def test_a_foreign_name_and_key_are_free_for_another(
    tenants: tuple[Node, Node], known: Target, policy: str
) -> None:
    mine, theirs = tenants
    before = mine.found(known.name)
    headers = {"X-Conversation-Id": known.name, "Idempotency-Key": f"k-{policy}-{known.name}"}
    mine.http.post(CHAT, headers={**headers, "X-Conversation-Id": "own"}, json=asking(SHORT))
    answer = theirs.http.post(f"{CHAT}?if_busy={policy}", headers=headers, json=asking(SHORT))
    assert answer.status_code == 200 and answer.headers["x-stream-state"] == "completed"
    assert mine.found(known.name)["epoch"] == before["epoch"] != theirs.found(known.name)["epoch"]
    assert theirs.stop(known.name, keep="true").headers["x-stream-state"] == "completed"
    theirs.erase(known.name)


def asked_of_redis(db: Redis, act: Callable[[], object]) -> list[str]:
    """The commands that concerned the stranger's keys, scripts' own too, without their values."""
    marker, seen = secrets.token_hex(8), []
    with db.monitor() as monitor:
        act()
        db.echo(marker)
        for one in monitor.listen():
            if marker in one["command"]:
                return seen
            if "{stranger:" in one["command"] and not one["command"].startswith("EVAL"):
                seen.append(one["command"].split()[0].upper())
    raise AssertionError("Redis hung up")


@pytest.mark.guarantee("T30")
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.method} {probe.target}")
def test_a_foreign_id_costs_redis_what_an_unknown_one_costs(
    guarded: Cluster, stranger: Node, known: Target, probe: Probe
) -> None:
    with Redis.from_url(guarded.redis_url) as db:

        def cost(its: str) -> list[str]:
            # Of names that nobody has asked for before: a stop leaves a mark of its own.
            db.delete(*(db.keys("rc:{stranger:*") or ["none"]))
            return asked_of_redis(db, lambda: probe.send(stranger, its, known.epoch))

        def is_equal(its: str) -> bool:
            return cost(its) == cost(never(its))

        # What is no leak differs only now and then, where a busy machine makes something late.
        for its in (known.name, known.completion_id):
            assert any(is_equal(its) for _ in range(ROUNDS))


@pytest.mark.guarantee("T30")
@pytest.mark.parametrize(
    "probe", [PROBES[0], PROBES[8], PROBES[21]], ids=lambda probe: f"{probe.method} {probe.target}"
)
def test_a_foreign_id_takes_as_long_as_an_unknown_one(
    tenants: tuple[Node, Node], known: Target, probe: Probe
) -> None:
    theirs = tenants[1]

    def taken(its: str, epoch: int) -> float:
        began = time.perf_counter()
        probe.send(theirs, its, epoch)
        return time.perf_counter() - began

    for _ in range(ROUNDS):  # of what is no leak, some round has a quiet machine
        pairs = [
            (taken(known.name, known.epoch), taken(never(known.name), EPOCH)) for _ in range(PAIRS)
        ]
        foreign, unknown = (statistics.median(one) for one in zip(*pairs, strict=True))
        if abs(foreign - unknown) < SLACK_S:
            return
    raise AssertionError(f"{foreign * 1000:.2f} ms for a foreign id, {unknown * 1000:.2f} ms else")
