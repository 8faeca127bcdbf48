"""compose.yaml as a person starts it: answers through the load balancer, and an end without rest.

The engine is the scripted one, so the length and the pace of an answer are the test's. The nodes
stand behind the load balancer and are known by the name in a header. The last two tests end the
cluster that the others share: their order matters.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection

import httpx
import pytest

PROJECT = f"replay-test-{os.getpid()}"
PROGRAMS = {"api", "worker"}
NODES = 2
READY_LIMIT_S = 60.0
CHANGE_LIMIT_S = 60.0
ANSWER = "[[tokens=90 rate=30]] three seconds of words"
ENDLESS_ANSWER = "[[tokens=8000 rate=30]] minutes of words"

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def cluster(
    images: dict[str, str], compose: Compose, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compose]:
    """`docker compose` on a cluster that is up; taken down with all it has."""
    settings = {
        "REPLAY_PROJECT": PROJECT,
        "REPLAY_PORT": "0",
        "REPLAY_API_NODES": str(NODES),
        "REPLAY_ENGINE": "scripted",
        "REPLAY_MODELS_DIR": str(tmp_path_factory.mktemp("models")),
    }

    def run(*arguments: str) -> str:
        return compose(*arguments, **settings)

    try:
        run("up", "--detach", "--wait", "--no-build")
        yield run
    finally:
        run("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def client(cluster: Compose) -> Iterator[httpx.Client]:
    """A client of the load balancer; each request is a connection of its own."""
    address = cluster("port", "lb", "8080").strip()
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=f"http://{address}", limits=limits, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def model(client: httpx.Client, cluster: Compose) -> str:
    """The name of the model that the worker has loaded; waits for it."""
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        for model in client.get("/v1/models").json()["data"]:
            if model["status"]["value"] == "loaded":
                return str(model["id"])
    pytest.fail(f"no model is loaded; {cluster('logs', '--tail=40', 'worker')}")


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that asks the cluster, at most CHANGE_LIMIT_S."""
    deadline = time.monotonic() + CHANGE_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {CHANGE_LIMIT_S} s"


def post(client: httpx.Client, model: str, name: str) -> AbstractContextManager[httpx.Response]:
    """Asks for a streamed answer in the conversation of that name."""
    return client.stream(
        "POST",
        "/v1/chat/completions",
        headers={"X-Conversation-Id": name},
        json={"model": model, "messages": [{"role": "user", "content": ANSWER}], "stream": True},
    )


def slots_taken(client: httpx.Client) -> int:
    """How many sessions the worker is generating."""
    (model,) = client.get("/v1/models").json()["data"]
    return int(model["meta"]["slots"] - model["meta"]["slots_free"])


def is_done(client: httpx.Client, name: str) -> bool:
    """What lookup says of the conversation's session."""
    (session,) = client.post("/v1/streams/lookup", json={"conversation_ids": [name]}).json()
    return bool(session["is_done"])


def test_pieces_pass_the_load_balancer_as_they_come(client: httpx.Client, model: str) -> None:
    with post(client, model, "unbuffered") as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        assert first.startswith(b"data: ")
        assert not is_done(client, "unbuffered")
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


def test_every_node_resumes_an_answer_at_any_byte(client: httpx.Client, model: str) -> None:
    with post(client, model, "resumed") as answer:
        whole = b"".join(answer.iter_raw())
    nodes = set()
    for offset in range(0, len(whole) + 1, 97):
        rest = client.get("/v1/stream", params={"conv_id": "resumed", "from": offset})
        assert rest.content == whole[offset:]
        nodes.add(rest.headers["X-Replay-Node"])
    assert len(nodes) == NODES


def test_a_live_answer_is_read_whole_through_another_connection(
    client: httpx.Client, model: str
) -> None:
    with post(client, model, "live") as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        with client.stream("GET", "/v1/stream/live", params={"from": len(first)}) as other:
            rest = b"".join(other.iter_raw())
        assert rest == b"".join(pieces)


def test_a_plain_request_that_is_dropped_ends_its_generation(
    client: httpx.Client, model: str
) -> None:
    asked = {"model": model, "messages": [{"role": "user", "content": ENDLESS_ANSWER}]}
    headers = {"Content-Type": "application/json"}
    where = client.base_url
    with closing(HTTPConnection(where.host, where.port)) as dropped:
        dropped.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
        until(lambda: slots_taken(client) == 1)
    until(lambda: slots_taken(client) == 0)


def test_nodes_and_workers_end_cleanly_when_told_to(cluster: Compose) -> None:
    cluster("stop", *PROGRAMS)
    lines = cluster("ps", "--all", "--format", "json", *PROGRAMS).splitlines()
    ended = [json.loads(line) for line in lines]
    assert len(ended) == NODES + 1
    assert {container["ExitCode"] for container in ended} == {0}


def test_nothing_is_left_after_down(cluster: Compose) -> None:
    cluster("down", "--volumes")
    for kind in ("container", "network", "volume"):
        everything = ["--all"] if kind == "container" else []
        label = f"label=com.docker.compose.project={PROJECT}"
        command = ["docker", kind, "ls", "--quiet", "--filter", label, *everything]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b""
