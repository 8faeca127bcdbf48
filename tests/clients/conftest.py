"""A whole cluster of real processes, with an API key. Its engine is the scripted one: what is
tested is what an SDK parses, not what a model says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sdk_cluster import KEY, SETTINGS

from deploy.local.cluster import Cluster
from tests.protocol.wire import Node, until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a worker, with an API key."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, "--engine", "scripted", environment=SETTINGS) as running:
        for node in [Node(url, KEY) for url in running.nodes]:
            with node.http:
                until(node.is_sure)
        yield running


@pytest.fixture
def nodes(cluster: Cluster) -> list[str]:
    """The nodes' addresses, both well after what an earlier test killed."""
    cluster.wait_ready()
    return cluster.nodes


@pytest.fixture
def model(nodes: list[str]) -> str:
    """The only model there is."""
    with Node(nodes[0], KEY).http as http:
        [only] = http.get("/v1/models").json()["data"]
    return str(only["id"])
