"""POST /slots/<id>: caches saved, restored and erased by name, over two workers and two nodes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import URLS, made, pair_of
from .wire import Node, error_of, until

SLOTS = 2
CHUNK_TOKENS = 128
LONG = "[[tokens=100000 rate=50]]"
OPERATOR, SOMEBODY = "operator", "somebody"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both workers save slots."""
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[list[str]]:
    """The nodes of a cluster of two workers; one of its keys is an operator's."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: where slots are saved elsewhere is not known")
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{OPERATOR} scopes=read,generate,stop,admin\n{SOMEBODY}\n")
    settings = {
        "REPLAY_SLOTS": str(SLOTS),
        "REPLAY_SLOT_SAVE_PATH": str(folder),
        "REPLAY_API_KEYS_FILE": str(keys),
    }
    state = tmp_path_factory.mktemp("saving")
    with made(state, "--workers", "2", **settings) as cluster:
        yield cluster.nodes


@pytest.fixture(scope="module")
def nodes(urls: list[str]) -> Iterator[tuple[Node, Node]]:
    """Two nodes, asked by an operator."""
    with pair_of(urls, OPERATOR, is_ready=lambda node: len(slots(node)) == 2 * SLOTS) as pair:
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
def empty(nodes: tuple[Node, Node]) -> None:
    """Nothing runs, and no slot holds anything."""
    until(lambda: not any(one["is_processing"] for one in slots(nodes[0])))
    for number in range(2 * SLOTS):
        assert changed(nodes[0], number, "erase").status_code == 200
    until(lambda: not holding(nodes[0]))


def slots(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.http.get("/slots").json()
    return found


def holding(node: Node) -> dict[int, int]:
    """How many tokens the free slots hold, those that hold none left out."""
    told = {one["id"]: one["n_prompt_tokens_cache"] for one in slots(node)}
    return {number: tokens for number, tokens in told.items() if tokens}


def changed(node: Node, number: object, action: str, name: object = None) -> httpx.Response:
    body = None if name is None else {"filename": name}
    return node.http.post(f"/slots/{number}?action={action}", json=body)


def spent(node: Node, words: str) -> int:
    """How many of the prompt's tokens a cache held."""
    return int(node.post(None, words).json()["timings"]["cache_n"])


def held(node: Node, words: str) -> tuple[int, int]:
    """The slot that a prompt went to, and how much of it that keeps."""
    assert spent(node, words) == 0
    [one] = until(lambda: holding(node)).items()
    return one


@pytest.fixture
def words() -> str:
    """Of some chunks, and the same as nobody else's."""
    return f"{secrets.token_hex(200)} [[tokens=3 rate=0]]"


@pytest.mark.clause("SLOTS-2")
def test_what_was_saved_serves_the_next_turn_at_any_worker(
    node: Node, other: Node, words: str, folder: Path
) -> None:
    number, tokens = held(node, words)
    assert tokens >= 2 * CHUNK_TOKENS
    saved = changed(other, number, "save", "trip.slot").json()
    size = (folder / "trip.slot").stat().st_size
    where = {key: slots(node)[number][key] for key in ("worker", "model")}
    assert saved.pop("timings")["save_ms"] > 0
    assert saved == {
        "id_slot": number,
        **where,
        "filename": "trip.slot",
        "n_saved": tokens,
        "n_written": size,
    }
    assert changed(node, number, "erase").json() == {"id_slot": number, **where, "n_erased": tokens}
    # One slot of each worker, since either may be asked next.
    for into in (0, SLOTS):
        restored = changed(other, into, "restore", "trip.slot").json()
        assert restored.pop("timings")["restore_ms"] > 0
        assert (restored["n_restored"], restored["n_read"]) == (tokens, size)
        assert restored["worker"] == slots(node)[into]["worker"]
    assert until(lambda: len(found := holding(node)) == 2 and found) == {0: tokens, SLOTS: tokens}
    assert spent(node, words) == tokens


@pytest.mark.clause("SLOTS-2")
def test_what_was_erased_is_computed_again(node: Node, words: str) -> None:
    number, tokens = held(node, words)
    assert changed(node, number, "erase").json()["n_erased"] == tokens
    assert changed(node, number, "erase").json()["n_erased"] == 0
    assert spent(node, words) == 0


@pytest.mark.clause("SLOTS-2")
def test_a_slot_in_use_is_left_alone(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG, max_tokens=90_000) as post:
        post.first(1)
        [busy] = until(lambda: [one for one in slots(other) if one["is_processing"]])
        for action in ("save", "restore", "erase"):
            assert changed(node, 0 if busy["id"] else 1, "save", "x").status_code == 200
            refused = changed(other, busy["id"], action, "x")
            assert (refused.status_code, error_of(refused)["reason"]) == (503, "busy")
            assert refused.headers["retry-after"].isdigit()
        before = len(post.data)
        post.first(before + 1)


@pytest.mark.clause("SLOTS-3")
@pytest.mark.parametrize(
    ("number", "action", "filename", "reason"),
    [
        ("x", "save", "f", "Invalid slot ID"),
        ("-1", "save", "f", "Invalid slot ID"),
        ("4", "save", "f", "Invalid slot ID"),
        ("9" * 40, "erase", None, "Invalid slot ID"),
        ("0", "", "f", "Invalid action"),
        ("0", "SAVE", "f", "Invalid action"),
        ("0", "save", None, "Invalid body"),
        ("0", "save", 7, "Invalid filename"),
        ("0", "save", "", "Invalid filename"),
        ("0", "save", "../f", "Invalid filename"),
        ("0", "restore", "/etc/passwd", "Invalid filename"),
        ("0", "restore", "f" * 201, "Invalid filename"),
        ("0", "restore", "missing", "no such file"),
    ],
)
def test_what_cannot_be_meant_is_400(
    node: Node, number: str, action: str, filename: object, reason: str
) -> None:
    refused = changed(node, number, action, filename)
    assert (refused.status_code, error_of(refused)["code"]) == (400, 400)
    assert reason.lower() in error_of(refused)["message"].lower()


@pytest.mark.clause("SLOTS-3")
def test_a_file_that_is_not_whole_is_400_and_harms_nothing(
    node: Node, words: str, folder: Path
) -> None:
    number, tokens = held(node, words)
    assert changed(node, number, "save", "whole").status_code == 200
    content = (folder / "whole").read_bytes()
    for name, other in (("cut", content[:-1]), ("changed", content[:-1] + b"?"), ("none", b"")):
        (folder / name).write_bytes(other)
        refused = changed(node, number, "restore", name)
        assert (refused.status_code, "filename" in error_of(refused)["message"]) == (400, True)
    assert holding(node) == {number: tokens}
    assert not list(folder.glob("*.part"))


@pytest.mark.clause("AUTH-2")
@pytest.mark.clause("SLOTS-2")
@pytest.mark.parametrize("action", ["save", "restore", "erase"])
def test_slots_are_an_operators(urls: list[str], action: str) -> None:
    somebody = Node(urls[0], SOMEBODY)
    with somebody.http:
        refused = changed(somebody, 0, action, "x")
        assert (refused.status_code, error_of(refused)["scope"]) == (403, "admin")
