"""Ports: a busy one is named together with who needs it and what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from deploy.local import ports
from deploy.local.errors import LaunchFailed

HOST = "127.0.0.1"


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_nobody_holds_is_free() -> None:
    assert ports.is_free(HOST, ports.any_free(HOST))


def test_a_port_held_for_sharing_is_not_free(busy: int) -> None:
    assert not ports.is_free(HOST, busy)


def test_the_busy_port_is_named_with_its_need_and_a_way_out(busy: int) -> None:
    with pytest.raises(LaunchFailed, match=rf"port {busy} \(api-2\) is busy.*--port"):
        ports.check_free(HOST, {busy: "api-2"})


def test_a_port_beyond_the_last_is_refused() -> None:
    with pytest.raises(LaunchFailed, match="port 65536 for api-1 does not exist"):
        ports.check_free(HOST, {65536: "api-1"})


def test_the_front_comes_first_and_the_nodes_follow() -> None:
    wanted = ports.wanted_ports(8080, ["api-1", "api-2"])
    assert wanted == {8080: "the front", 8081: "api-1", 8082: "api-2"}


def test_a_block_is_free_from_end_to_end() -> None:
    first = ports.free_block(HOST, 3)
    ports.check_free(HOST, ports.wanted_ports(first, ["api-1", "api-2"]))


def test_no_free_block_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda host, port: False)
    with pytest.raises(LaunchFailed, match="found no 3 free ports"):
        ports.free_block(HOST, 3)
