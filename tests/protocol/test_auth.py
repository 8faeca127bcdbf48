"""API keys: who may come in, and who sees what."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from deploy.local.cluster import Cluster

from .conftest import URLS, made
from .stored import encoded
from .wire import CHAT, STREAM, Node, asking, error_of, until

KEYS = ("key-one", "key two")
LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
GUARDED = [
    ("POST", CHAT),
    ("GET", STREAM),
    ("DELETE", STREAM),
    ("POST", "/v1/streams/lookup"),
    ("GET", "/v1/models"),
    ("GET", "/props"),
    ("GET", "/v1/nothing"),
]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two keys."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the keys of what runs elsewhere are not known")
    with made(tmp_path_factory.mktemp("keyed"), REPLAY_API_KEYS=",".join(KEYS)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tenants(keyed: Cluster) -> Iterator[tuple[Node, Node]]:
    """Two tenants, each at a node of its own."""
    with ExitStack() as stack:
        first, second = (Node(url, key) for url, key in zip(keyed.nodes, KEYS, strict=True))
        stack.callback(first.http.close)
        stack.callback(second.http.close)
        yield first, second


@pytest.fixture(scope="module")
def stranger(keyed: Cluster) -> Iterator[Node]:
    """Who has no key."""
    node = Node(keyed.nodes[0])
    with node.http:
        yield node


@pytest.mark.clause("AUTH-1")
@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_key_there_is_nothing_but_401(stranger: Node, method: str, path: str) -> None:
    response = stranger.http.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (401, 401)
    assert error["type"] == "authentication_error"


@pytest.mark.clause("AUTH-1")
@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/index.html"])
def test_health_and_the_page_need_no_key(stranger: Node, path: str) -> None:
    assert stranger.http.get(path).status_code == 200


@pytest.mark.clause("AUTH-1")
@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_options_need_no_key(stranger: Node, method: str, path: str) -> None:
    assert stranger.http.options(path).status_code == 200
    asked = {"Origin": "http://a", "Access-Control-Request-Method": method}
    assert stranger.http.options(path, headers=asked).status_code == 200


@pytest.mark.clause("AUTH-1")
@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_given_in_any_of_three_ways(stranger: Node, key: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
        {"X-Api-Key": key},
    ):
        assert stranger.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.clause("AUTH-1")
def test_a_bare_key_is_one(stranger: Node) -> None:
    headers = {"Authorization": KEYS[0]}
    assert stranger.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.clause("AUTH-1")
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer key-one,key two"},
        {"X-Api-Key": "key-on"},
        {"Authorization": "Bearer wrong", "X-Api-Key": "key-one"},
    ],
)
def test_what_is_no_key_is_401(stranger: Node, headers: dict[str, str]) -> None:
    assert stranger.http.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.clause("AUTH-1")
@pytest.mark.clause("GET-4")
@pytest.mark.clause("STOP-1")
@pytest.mark.clause("LOOKUP-2")
def test_what_another_tenant_made_does_not_exist(tenants: tuple[Node, Node]) -> None:
    mine, theirs = tenants
    with mine.posting("shared", LONG) as post:
        post.first(1)
        unknown, foreign = theirs.read("nowhere"), theirs.read("shared")
        assert foreign.status_code == unknown.status_code == 404
        assert error_of(foreign) == error_of(theirs.read("shared"))
        same = {**error_of(unknown), "message": ""} == {**error_of(foreign), "message": ""}
        assert same, "a foreign id is told from an unknown one"
        stop = theirs.stop("shared")
        assert (stop.status_code, "x-stream-epoch" in stop.headers) == (204, False)
        assert theirs.lookup("shared") == []
        assert theirs.post("shared", SHORT).status_code == 200
        assert mine.found("shared")["state"] == "running"
        mine.stop("shared")
    assert theirs.read("shared").status_code == 200


@pytest.mark.clause("KEY-1")
def test_tenants_share_no_slot(keyed: Cluster, tenants: tuple[Node, Node]) -> None:
    for tenant in tenants:
        tenant.post("slotted", SHORT)
    with Redis.from_url(keyed.redis_url) as db:
        routes = db.keys(f"rc:*:route:{encoded('slotted')}")
    assert len({route.split(b"}")[0] for route in routes}) == 2
    assert not any(key.encode() in route for route in routes for key in KEYS)


@pytest.mark.clause("AUTH-1")
def test_the_body_of_a_stranger_is_not_read(stranger: Node) -> None:
    assert stranger.http.post(CHAT, json=asking(SHORT)).status_code == 401


FILE = """\
reader scopes=read tenant=acme
writer scopes=generate tenant=acme
stopper scopes=stop tenant=acme
"""


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """A cluster with one node whose keys stand in a file."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the keys of what runs elsewhere are not known")
    folder = tmp_path_factory.mktemp("filed")
    file = folder / "keys"
    file.write_text(FILE)
    settings = {"REPLAY_API_KEYS_FILE": str(file)}
    with made(folder / "state", "--api-nodes", "1", **settings) as cluster:
        yield cluster, file


def keyed_node(cluster: Cluster, stack: ExitStack, key: str) -> Node:
    """The node, as who has this key sees it."""
    node = Node(cluster.nodes[0], key)
    stack.callback(node.http.close)
    return node


def rewrite(file: Path, text: str) -> None:
    """Puts a text into the file's place at once: nobody reads half of it, or nothing."""
    made = file.with_suffix(".new")
    made.write_text(text)
    made.replace(file)


@pytest.mark.clause("AUTH-2")
def test_keys_of_one_tenant_share_its_sessions_each_within_its_scopes(
    filed: tuple[Cluster, Path],
) -> None:
    with ExitStack() as stack:
        reader, writer, stopper = (
            keyed_node(filed[0], stack, key) for key in ("reader", "writer", "stopper")
        )
        with writer.posting("c", LONG) as post:
            post.first(1)
            assert reader.found("c")["state"] == "running"
            assert reader.post("c", SHORT).status_code == 403
            refused = reader.stop("c")
            assert refused.status_code == 403
            error = error_of(refused)
            assert (error["type"], error["scope"]) == ("permission_error", "stop")
            for other in (writer, stopper):
                assert other.read("c").status_code == 403
                assert other.http.get("/props").status_code == 200
            assert stopper.http.get("/slots").status_code == 403
            assert stopper.stop("c", keep="true").headers["x-stream-state"] == "stopped"
        assert reader.read("c").status_code == 200


@pytest.mark.clause("AUTH-3")
def test_keys_change_while_the_node_runs(filed: tuple[Cluster, Path]) -> None:
    cluster, file = filed
    log = cluster.state_dir / "log" / "api-1.log"
    with ExitStack() as stack:
        reader, late = (keyed_node(cluster, stack, key) for key in ("reader", "late"))
        assert late.http.get("/v1/models").status_code == 401
        rewrite(file, "late scopes=everything\n")
        until(lambda: "stay as they were" in log.read_text())
        assert reader.http.get("/v1/models").status_code == 200
        rewrite(file, "late\n" + FILE)
        until(lambda: late.http.get("/v1/models").status_code == 200)
        before = log.read_text().count("read 4 API keys")
        cluster.kill("api-1", signal.SIGHUP)
        until(lambda: log.read_text().count("read 4 API keys") > before)
        assert reader.http.get("/v1/models").status_code == 200
    assert "late" not in log.read_text().replace("later", "")
