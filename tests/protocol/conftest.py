"""The cluster under test: one of our own with scripted answers, or one that runs elsewhere.

REPLAY_PROTOCOL_URLS=url1,url2 names two nodes of a cluster whose workers have the scripted engine,
REPLAY_PROTOCOL_REDIS_URL its Redis; what needs more than that is then skipped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy.local.cluster import Cluster
from tests.redis_server import leave_to_the_kernel

from .frail import Frail
from .stored import heartbeat
from .wire import Node, until

URLS = [url for url in os.environ.get("REPLAY_PROTOCOL_URLS", "").split(",") if url]
REDIS_URL = os.environ.get("REPLAY_PROTOCOL_REDIS_URL", "")
OURS = dict.fromkeys(
    [
        "REPLAY_API_KEYS",
        "REPLAY_API_KEYS_FILE",
        "REPLAY_REDIS_URL",
        "REPLAY_QUEUE_REDIS_URL",
        "REPLAY_MODELS",
        "REPLAY_ENGINE",
    ],
    "",
)
"""What the person who runs the tests may have set for a cluster of their own."""

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nearly everything here starts processes."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.system)


def made(state_dir: Path, *arguments: str, **environment: str) -> Cluster:
    """A cluster of our own with scripted answers, not yet started."""
    return Cluster(
        state_dir, "--engine", "scripted", *arguments, environment={**OURS, **environment}
    )


@pytest.fixture(scope="session")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    """The cluster that most tests share; None where they go elsewhere."""
    if URLS:
        yield None
        return
    with made(tmp_path_factory.mktemp("protocol"), REPLAY_SLOTS="3") as cluster:
        leave_to_the_kernel(cluster.redis_url)
        yield cluster


@contextmanager
def pair_of(
    urls: Sequence[str], key: str = "", *, is_ready: Callable[[Node], bool] = lambda node: True
) -> Iterator[tuple[Node, Node]]:
    """Two nodes, asked with this API key, once each is sure of the log, and ready."""
    one, two = (Node(url, key) for url in urls)
    with one.http, two.http:
        for node in (one, two):
            until(node.is_sure)
            until(lambda node=node: is_ready(node))
        yield one, two


@pytest.fixture(scope="session")
def nodes(own_cluster: Cluster | None) -> Iterator[tuple[Node, Node]]:
    """Two nodes of it."""
    with pair_of(own_cluster.nodes if own_cluster else URLS) as pair:
        yield pair


@pytest.fixture(scope="session")
def node(nodes: tuple[Node, Node]) -> Node:
    """The node that is asked first."""
    return nodes[0]


@pytest.fixture(scope="session")
def other(nodes: tuple[Node, Node]) -> Node:
    """The node that learns of everything from the log alone."""
    return nodes[1]


@pytest.fixture(scope="session")
def model(node: Node) -> str:
    """The only model there is."""
    [only] = node.models()
    return str(only["id"])


@pytest.fixture(scope="session")
def db(own_cluster: Cluster | None) -> Iterator[Redis]:
    """The cluster's Redis, both planes."""
    url = own_cluster.redis_url if own_cluster else REDIS_URL
    if not url:
        pytest.skip("REPLAY_PROTOCOL_REDIS_URL does not name the cluster's Redis")
    with Redis.from_url(url) as client:
        yield client


@pytest.fixture(scope="package")
def frail_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frail]:
    """The cluster that is broken."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: what runs elsewhere is not broken")
    with Frail(tmp_path_factory.mktemp("frail"), OURS).running() as frail:
        yield frail


@pytest.fixture
def frail(frail_cluster: Frail) -> Frail:
    """The same, well again."""
    return frail_cluster.well()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A conversation that no other test uses; what the test leaves running is stopped."""
    frail = "frail" in request.fixturenames
    nodes = request.getfixturevalue("frail").nodes if frail else request.getfixturevalue("nodes")
    made = f"c-{secrets.token_hex(6)}"
    yield made
    nodes[1].stop(made, keep="true")


@pytest.fixture
def ghost(nodes: tuple[Node, Node], db: Redis) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Announces one model of a worker that exists as a record alone, for the test."""

    def known(name: str) -> bool:
        return all(name in _names(node) for node in nodes)

    announced: list[str] = []
    with ExitStack() as stack:

        def announce(model: dict[str, Any]) -> None:
            stack.enter_context(heartbeat(db, model))
            announced.append([model["name"], *model.get("aliases", ())][-1])
            until(lambda: known(announced[-1]))

        yield announce
    until(lambda: not any(one in _names(node) for one in announced for node in nodes))


def _names(node: Node) -> list[str]:
    return [name for model in node.models() for name in (model["id"], *model["aliases"])]


@pytest.fixture
def occupied(node: Node, name: str) -> Iterator[None]:
    """A test during which every slot is taken."""
    slots = node.models()[0]["meta"]["slots"]
    names = [f"{name}-slot-{number}" for number in range(slots)]
    with ExitStack() as stack:
        for one in names:
            stack.callback(node.stop, one, keep="true")
            stack.enter_context(node.posting(one, "[[tokens=100000 rate=10]]"))
        for one in names:
            node.reaches(one, "running")
        yield
