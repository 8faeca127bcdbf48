"""LoRA adapters over two workers and two nodes; what one says is scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from .conftest import URLS, made, pair_of
from .stored import asked_with
from .wire import Node, error_of

FILES = ("/one.gguf", "/two.gguf", "/three.gguf")
WORDS = "[[tokens=80 rate=0 seed=1]]"
ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": WORDS}]},
    "/v1/messages": {"messages": [{"role": "user", "content": WORDS}]},
    "/v1/responses": {"input": WORDS},
    "/v1/completions": {"prompt": WORDS},
    "/completion": {"prompt": WORDS},
}
OPERATOR, SOMEBODY = "operator", "somebody"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers with three adapters; one of the keys is an operator's."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: which adapters are loaded elsewhere is not known")
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{OPERATOR} tenant=default scopes=read,generate,stop,admin\n{SOMEBODY}\n")
    settings = {
        "REPLAY_LORA": "{}:0.5,{}:0,{}:0".format(*FILES),
        "REPLAY_API_KEYS_FILE": str(keys),
    }
    state = tmp_path_factory.mktemp("adapters")
    with made(state, "--workers", "2", **settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def nodes(cluster: Any) -> Iterator[tuple[Node, Node]]:
    """Two nodes, asked by an operator."""
    with pair_of(cluster.nodes, OPERATOR, is_ready=lists_all) as pair:
        yield pair


@pytest.fixture(scope="module")
def node(nodes: tuple[Node, Node]) -> Node:
    """The node that is asked first."""
    return nodes[0]


@pytest.fixture(scope="module")
def other(nodes: tuple[Node, Node]) -> Node:
    """The other one."""
    return nodes[1]


@pytest.fixture(autouse=True)
def as_started(cluster: Any) -> None:
    """Nobody has set other scales than the workers'."""
    with Redis.from_url(cluster.redis_url) as redis:
        for key in redis.scan_iter("rc:adapters:*"):
            redis.delete(key)


def lists_all(node: Node) -> bool:
    return len(listed(node)) == len(FILES)


def listed(node: Node) -> list[dict[str, Any]]:
    response = node.http.get("/lora-adapters")
    return list(response.json()) if response.status_code == 200 else []


def scaled(node: Node, *scales: float) -> httpx.Response:
    body = [{"id": place, "scale": scale} for place, scale in enumerate(scales)]
    return node.http.post("/lora-adapters", json=body)


def answer(node: Node, route: str = "/completion", **fields: Any) -> Any:
    response = node.http.post(route, json={**ROUTES[route], "max_tokens": 80, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def said(node: Node, **fields: Any) -> str:
    return str(answer(node, **fields)["content"])


def want(*scales: float) -> dict[str, Any]:
    return {"lora": [{"id": place, "scale": scale} for place, scale in enumerate(scales)]}


@pytest.mark.clause("LORA-1")
def test_adapters_are_listed_with_their_scales(node: Node, other: Node) -> None:
    told = [
        {"id": place, "path": path, "scale": scale, "task_name": "", "prompt_prefix": ""}
        for place, (path, scale) in enumerate(zip(FILES, (0.5, 0.0, 0.0), strict=True))
    ]
    assert listed(node) == listed(other) == told
    assert node.http.get("/lora-adapters?model=none").status_code == 400


@pytest.mark.clause("LORA-1")
def test_scales_that_are_set_count_at_every_node_and_worker(node: Node, other: Node) -> None:
    one = said(node, **want(0, 1))
    assert said(node) == said(other, **want(0.5)) != one
    assert scaled(node, 0, 1).json() == {"success": True}
    assert [adapter["scale"] for adapter in listed(other)] == [0, 1, 0]
    assert [said(each) for each in (node, other) * 3] == [one] * 6
    assert scaled(other).json() == {"success": True}
    assert said(node) == said(node, **want(0)) != one


@pytest.mark.clause("LORA-1")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "Request body must be an array"),
        ([{"id": 3, "scale": 1}], "there is no adapter 3"),
        ([{"id": "0"}], "Field '[0].id': expected an integer"),
        ([{"id": 0, "scale": 1}, {"id": 1, "scale": 1}, {"id": 2, "scale": 1}], "more than 2"),
    ],
)
def test_scales_that_cannot_be_meant_are_400(node: Node, body: Any, reason: str) -> None:
    before = listed(node)
    refused = node.http.post("/lora-adapters", json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (400, 400)
    assert reason in error_of(refused)["message"]
    assert listed(node) == before


@pytest.mark.clause("AUTH-2")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_adapters_are_an_operators(cluster: Any, method: str) -> None:
    with Node(cluster.nodes[0], SOMEBODY).http as http:
        refused = http.request(method, "/lora-adapters", json=[])
        assert (refused.status_code, error_of(refused)["scope"]) == (403, "admin")


@pytest.mark.clause("LORA-2")
def test_a_request_names_its_own_whatever_is_set(node: Node) -> None:
    answers = [said(node, **want(*scales)) for scales in ((0,), (1,), (0.5,), (0.5, 1))]
    assert len(set(answers)) == len(answers)
    scaled(node, 1)
    assert said(node, lora=[]) == said(node) == answers[1]
    assert said(node, **want(0)) == answers[0]
    settings = answer(node, **want(0, 1))["generation_settings"]
    assert settings["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]


@pytest.mark.clause("LORA-2")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ([{"id": 7, "scale": 1}], "Field 'lora': there is no adapter 7"),
        ([{"id": 0, "scale": True}], "Field 'lora[0].scale': expected a number"),
        ([{"id": n, "scale": 1} for n in range(3)], "Field 'lora': more than 2 adapters at once"),
    ],
    ids=["unknown", "no number", "too many"],
)
def test_what_cannot_be_applied_is_400_and_opens_nothing(
    node: Node, cluster: Any, name: str, route: str, lora: Any, reason: str
) -> None:
    body = {**ROUTES[route], "max_tokens": 4, "lora": lora}
    refused = node.http.post(route, json=body, headers={"X-Conversation-Id": name})
    assert (refused.status_code, reason in refused.json()["error"]["message"]) == (400, True)
    assert node.lookup(name) == []


@pytest.mark.clause("LORA-2")
@pytest.mark.parametrize("route", ROUTES)
def test_every_dialect_takes_them(node: Node, route: str) -> None:
    def shown(**fields: Any) -> str:
        told = json.dumps(answer(node, route, temperature=0, **fields))
        return told[told.index(" w0001") :][:60]

    assert shown(**want(1)) != shown(**want(0))


@pytest.mark.clause("LORA-3")
def test_the_record_says_what_a_session_runs_with(node: Node, cluster: Any, name: str) -> None:
    words = f"[[tokens=4 rate=0]] {name}"
    assert node.post(name, words, **want(0.5, 1)).status_code == 200
    scaled(node, 0)
    with Redis.from_url(cluster.redis_url) as redis:
        asked = json.loads(asked_with(redis, words).fields["request"])
    [(one, half), (two, whole)] = asked["adapters"]
    assert (half, whole) == (0.5, 1.0)
    assert len(one) == len(two) == 64 and one != two
