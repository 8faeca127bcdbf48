"""With API keys: none, no answer; and one tenant's sessions are not there for another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from cluster_client import CHAT, Client, client_of, error_of
from conftest import scripted_cluster

from deploy.local.cluster import Cluster

pytestmark = pytest.mark.anyio

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/props"),
    ("POST", CHAT),
    ("GET", "/v1/stream?conv_id=c"),
    ("GET", "/v1/stream/c?from=x"),
    ("DELETE", "/v1/stream?conv_id=c"),
    ("DELETE", "/v1/stream/c"),
    ("POST", "/v1/streams/lookup"),
    ("GET", "/v1/nothing"),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two API keys."""
    folder = tmp_path_factory.mktemp("guarded")
    with scripted_cluster(folder, REPLAY_API_KEYS="one,two") as cluster:
        yield cluster


@pytest.fixture
async def one(guarded: Cluster) -> AsyncIterator[Client]:
    """The first tenant."""
    async with client_of(guarded, "one") as client:
        yield client


@pytest.fixture
async def two(guarded: Cluster) -> AsyncIterator[Client]:
    """The second tenant."""
    async with client_of(guarded, "two") as client:
        yield client


@pytest.mark.parametrize("key", ["", "three", "on", "one,two"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_known_key_it_is_401(
    guarded: Cluster, key: str, method: str, path: str
) -> None:
    async with client_of(guarded, key) as nobody:
        answer = await nobody.nodes[1].request(method, path, json={})
    assert answer.status_code == 401
    assert error_of(answer)["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_health_and_readiness_are_public(guarded: Cluster, path: str) -> None:
    async with client_of(guarded) as nobody:
        assert (await nobody.nodes[1].get(path)).status_code == 200


async def test_another_tenants_session_is_not_there(one: Client, two: Client, name: str) -> None:
    log = (await one.post(name, "[[tokens=5 rate=0]]", stream=True)).content
    [found] = await one.lookup(name, node=1)
    foreign = await two.read(name, node=1)
    never = await two.read("never-was", node=1)
    assert foreign.status_code == never.status_code == 404
    assert foreign.text == never.text.replace("never-was", name)
    for more in ({"epoch": found["epoch"]}, {"from_": 5}, {"from_": "x"}):
        assert (await two.read(name, **more)).status_code == 404
    assert await two.lookup(name, f"{name}::x") == []
    stopped = await two.stop(name)
    assert (stopped.status_code, "x-stream-epoch" in stopped.headers) == (204, False)
    assert (await two.stop(name, epoch=found["epoch"])).status_code == 204
    assert await one.log(name, node=1) == log
    assert await one.lookup(name) == [found]


async def test_two_tenants_may_use_one_name_at_once(one: Client, two: Client, name: str) -> None:
    async with one.posting(name, "[[tokens=60 rate=50]]") as post:
        await post.has(1)
        other = (await two.post(name, "[[tokens=5 rate=0]]", stream=True)).content
        log = await post.whole()
    assert log.endswith(b"data: [DONE]\n\n") and other.endswith(b"data: [DONE]\n\n")
    assert await one.log(name, node=1) == log
    assert await two.log(name, node=1) == other


async def test_a_foreign_stop_does_not_reach_a_live_answer(
    one: Client, two: Client, name: str
) -> None:
    async with one.posting(name, "[[tokens=60 rate=50]]") as post:
        await post.has(1)
        assert (await two.stop(name, node=1)).status_code == 204
        assert (await post.whole()).endswith(b"data: [DONE]\n\n")
