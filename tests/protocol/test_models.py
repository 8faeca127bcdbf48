"""What the cluster tells of itself, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .wire import Node, error_of

Announce = Callable[[dict[str, Any]], None]


@pytest.mark.clause("MODEL-1")
@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_every_model_of_a_living_worker_is_listed(
    node: Node, name: str, ghost: Announce, path: str
) -> None:
    ghost({"name": name, "status": "loading", "progress": 0.5, "aliases": ["nick"]})
    listed = {one["id"]: one for one in node.http.get(path).json()["data"]}
    assert len(listed) == 2
    assert all(isinstance(one["meta"], dict) for one in listed.values())
    assert (listed[name]["status"]["value"], listed[name]["aliases"]) == ("loading", ["nick"])


@pytest.mark.clause("MODEL-1")
def test_a_model_whose_worker_lives_no_more_is_not_listed(
    nodes: tuple[Node, Node], model: str
) -> None:
    assert [[one["id"] for one in node.models()] for node in nodes] == [[model], [model]]


@pytest.mark.clause("MODEL-1")
def test_the_props_tell_the_node_and_what_it_can(nodes: tuple[Node, Node]) -> None:
    told = [node.http.get("/props").json() for node in nodes]
    assert told[0]["node"] != told[1]["node"]
    for props in told:
        assert props["features"]["resume"] is True
        assert (props["ping"]["interval_s"], props["retention_s"]) == (15, 7200)
        assert props["workers"] == 1


@pytest.mark.clause("HEALTH-1")
def test_a_node_that_is_well_says_so(node: Node) -> None:
    assert [node.http.get(path).status_code for path in ("/health", "/ready")] == [200, 200]


@pytest.mark.clause("HEAD-1")
@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/props", "/openapi.json"])
def test_head_answers_as_get_does_without_the_body(node: Node, path: str) -> None:
    response, whole = node.http.head(path), node.http.get(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == whole.headers["content-type"]
    assert int(response.headers["content-length"]) > 0


@pytest.mark.clause("HEAD-1")
def test_head_of_a_live_stream_ends_at_once(node: Node, other: Node, name: str) -> None:
    with node.posting(name, "[[tokens=100000 rate=10]]"):
        node.reaches(name, "running")
        with other.http.stream("HEAD", f"/v1/stream/{name}") as response:
            told = (response.status_code, response.headers["X-Stream-State"], response.read())
        assert told == (200, "running", b"")
        assert other.http.head("/v1/stream/never").status_code == 404


@pytest.mark.clause("ERR-1")
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/nothing"), ("POST", "/v1/stream"), ("PUT", "/v1/models"), ("GET", "/v1/chat")],
)
def test_an_unknown_route_or_method_is_404(node: Node, method: str, path: str) -> None:
    response = node.http.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (404, 404)
    assert error["type"] == "not_found_error" and isinstance(error["message"], str)


@pytest.mark.clause("ERR-1")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/chat/completions", 400),
        ("GET", "/v1/stream", 400),
        ("GET", "/v1/stream/nobody", 404),
        ("POST", "/v1/streams/lookup", 400),
        ("DELETE", "/v1/stream", 400),
    ],
)
def test_every_refusal_is_in_the_envelope(node: Node, method: str, path: str, status: int) -> None:
    response = node.http.request(method, path)
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert (response.status_code, error_of(response)["code"]) == (status, status)


@pytest.mark.clause("DOC-1")
def test_the_document_of_all_routes_is_handed_out(node: Node) -> None:
    document = node.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/stream"} <= set(document["paths"])
    assert "docs/start.js" in node.http.get("/docs").text
