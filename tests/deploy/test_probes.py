"""Readiness: every node says so, and every worker has a model loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from redis import Redis

from deploy.local import probes
from deploy.local.ports import any_free
from replay import keys
from replay.cluster import ModelRecord, ModelStatus, WorkerRecord

LOADED = b'{"data":[{"status":{"value":"loading"}},{"id":"b","status":{"value":"loaded"}}]}'
LOADING = b'{"data":[{"status":{"value":"loading"}}]}'


class FakeNode(BaseHTTPRequestHandler):
    """Answers by its server's attributes."""

    def do_GET(self) -> None:
        ready, models, key = self.server.answers  # type: ignore[attr-defined]
        body = models if self.path == "/v1/models" else b"{}"
        allowed = not key or self.headers["Authorization"] == f"Bearer {key}"
        self.send_response(ready if self.path == "/ready" else 200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class FakeServer(ThreadingHTTPServer):
    answers: tuple[int, bytes, str] = (200, LOADED, "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """These ask once, and the machine may be busy."""
    monkeypatch.setattr(probes, "ANSWER_S", 10.0)


@pytest.fixture
def node() -> Iterator[FakeServer]:
    with FakeServer(("127.0.0.1", 0), FakeNode) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "loaded"),
    [(LOADED, True), (LOADING, False), (b'{"data":[]}', False), (b"<html>", False), (b"[]", False)],
)
def test_a_loaded_model_is_found_in_any_body(body: bytes, loaded: bool) -> None:
    assert probes.lists_a_loaded_model(body) is loaded


def test_a_ready_node_with_a_loaded_model_is_ready(node: FakeServer) -> None:
    assert probes.nodes_are_ready([node.url], needs_model=True)


def test_one_dead_node_is_not_ready(node: FakeServer) -> None:
    dead = f"http://127.0.0.1:{any_free('127.0.0.1')}"
    assert not probes.nodes_are_ready([node.url, dead], needs_model=True)


def test_a_draining_node_is_not_ready(node: FakeServer) -> None:
    node.answers = (503, LOADED, "")
    assert not probes.nodes_are_ready([node.url], needs_model=True)


def test_a_loading_model_is_waited_for_only_where_there_are_workers(node: FakeServer) -> None:
    node.answers = (200, LOADING, "")
    assert not probes.nodes_are_ready([node.url], needs_model=True)
    assert probes.nodes_are_ready([node.url], needs_model=False)


def test_a_key_opens_the_list_of_models(node: FakeServer) -> None:
    node.answers = (200, LOADED, "sesame")
    assert not probes.nodes_are_ready([node.url], needs_model=True)
    assert probes.nodes_are_ready([node.url], needs_model=True, api_key="sesame")


@pytest.mark.parametrize(
    ("status", "pid", "ready"), [("loaded", 7, True), ("loaded", 8, False), ("loading", 7, False)]
)
def test_a_worker_is_ready_by_the_word_of_the_process_that_runs_now(
    redis_server: str, status: ModelStatus, pid: int, ready: bool
) -> None:
    record = WorkerRecord("w", "here", 7, 0, "b1", (ModelRecord("m", status),))
    with Redis.from_url(redis_server) as redis:
        redis.set(keys.worker("w"), record.to_json(), px=60_000)
        assert probes.workers_are_ready(redis_server, {"w": pid}) is ready
        redis.delete(keys.worker("w"))
        assert not probes.workers_are_ready(redis_server, {"w": pid})


def test_workers_are_not_ready_while_redis_is_away() -> None:
    assert not probes.workers_are_ready("redis://127.0.0.1:1", {"w": 1})
