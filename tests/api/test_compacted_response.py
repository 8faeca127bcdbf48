"""A compacted log: every page and every coding gives the same bytes, and what is gone is a cut."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from log_harness import compacted
from node_harness import NodeHarness, error_of

from api import compacted_response
from replay.identity import Conversation

pytestmark = pytest.mark.anyio

TEXTS = [f"word {number} " for number in range(40)]


async def log_of(node: NodeHarness) -> bytes:
    """A finished session of as many blocks as it has texts."""
    log = await node.answered("c", *TEXTS)
    assert len(await compacted(node.log, Conversation("default", "c"))) == 1
    return log


async def read(node: NodeHarness, offset: int, coding: str = "gzip") -> httpx.Response:
    return await node.http.get(
        f"/v1/stream?conv_id=c&from={offset}", headers={"Accept-Encoding": coding}
    )


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("page_bytes", [1, 1000, 10**6])
@pytest.mark.parametrize("send_bytes", [1, 1000, 10**6])
async def test_however_it_is_read_and_sent_it_is_the_log(
    node: NodeHarness,
    monkeypatch: pytest.MonkeyPatch,
    coding: str,
    page_bytes: int,
    send_bytes: int,
) -> None:
    monkeypatch.setattr(compacted_response, "PAGE_BYTES_MAX", page_bytes)
    monkeypatch.setattr(compacted_response, "SEND_BYTES", send_bytes)
    log = await log_of(node)
    for offset in [*range(0, len(log), 499), len(log)]:
        response = await read(node, offset, coding)
        assert (response.status_code, response.content) == (200, log[offset:])
        assert response.headers.get("content-encoding", "identity") == coding
        assert response.headers["x-stream-state"] == "completed"


async def test_what_is_no_offset_of_it_is_refused_before_any_byte(node: NodeHarness) -> None:
    log = await log_of(node)
    beyond = await read(node, len(log) + 1)
    assert (beyond.status_code, error_of(beyond)["size"]) == (416, len(log))
    session = node.log._sessions[(await node.log.resolve("default", "c", None)).ref]
    first = session.chunks.pop(0).end
    below = await read(node, 0)
    assert (below.status_code, error_of(below)["first_offset"]) == (410, first)
    session.record = replace(session.record, doubt=first, doubt_end=first + 10, doubts=1)
    assert (await read(node, first + 5)).status_code == 416
    for trusted in (first, first + 11):
        assert (await read(node, trusted)).content == log[trusted:]


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_what_is_gone_in_the_middle_of_it_is_cut(
    served: NodeHarness, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    monkeypatch.setattr(compacted_response, "PAGE_BYTES_MAX", 1000)
    await log_of(served)
    session = served.log._sessions[(await served.log.resolve("default", "c", None)).ref]
    session.end, session.chunks = None, session.chunks[:20]
    with pytest.raises(httpx.RemoteProtocolError):
        await read(served, 0, coding)
    session.chunks = []
    assert (await read(served, 0, coding)).status_code == 503
