"""Ids for EventSource: whatever an id is given back, what follows is what was not received."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_harness import compacted
from node_harness import NodeHarness, error_of

from api.event_ids import EventId, EventIds
from replay.identity import Conversation, SessionRef
from replay.records import Chunk

pytestmark = pytest.mark.anyio

REF = SessionRef("t", "c", "m", 7)
LINE = re.compile(rb"\nid: (\d+)-(\d+)(?=\n\n)")


@given(
    texts=st.lists(st.binary(max_size=6).filter(lambda text: b"\n" not in text), max_size=6),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    begin=st.integers(0, 60),
)
def test_however_the_log_is_cut_the_frames_and_their_ids_are_the_same(
    texts: list[bytes], cuts: list[int], begin: int
) -> None:
    log = b"".join(b"data:" + text + b"\n\n" for text in texts)
    begin = min(begin, len(log))
    bounds = sorted({begin, len(log), *(cut for cut in cuts if begin < cut < len(log))})
    ids, told = EventIds(REF), b""
    for start, end in pairwise(bounds):
        told += ids.feed(Chunk(end, log[start:end]))
    told += ids.finish()
    assert LINE.sub(b"", told) == log[begin:]
    found = list(LINE.finditer(told))
    assert len(found) == log[begin:].count(b"\n\n")
    for one in found:
        assert one[1] == b"7"
        assert log[int(one[2]) :] == LINE.sub(b"", told[one.end() + 2 :])


@pytest.mark.parametrize("text", ["", "7", "7-", "-5", "7-5 ", "a-5", "7-5-5", "0-5", "7--5"])
def test_what_is_no_id_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        EventId.parse(text)


async def read(
    node: NodeHarness, last: str | None = None, name: str = "c", more: str = ""
) -> tuple[int, bytes]:
    """The answer to an EventSource that has this last id."""
    headers = {"Last-Event-ID": last} if last is not None else {}
    url = f"/v1/stream?conv_id={name}&ids=true{more}"
    response = await node.http.get(url, headers=headers)
    assert "content-encoding" not in response.headers
    return response.status_code, response.content


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_from_every_id_on_the_rest_comes_and_at_last_204(
    node: NodeHarness, is_compacted: bool
) -> None:
    log = await node.answered("c", *(f"word {number}" for number in range(30)))
    if is_compacted:
        await compacted(node.log, Conversation("default", "c"))
    status, told = await read(node)
    assert (status, LINE.sub(b"", told)) == (200, log)
    ids = [f"{epoch.decode()}-{offset.decode()}" for epoch, offset in LINE.findall(told)]
    assert len(ids) == log.count(b"\n\n")
    for last in ids[:-1]:
        status, rest = await read(node, last)
        assert (status, LINE.sub(b"", rest)) == (200, log[int(last.split("-")[1]) :])
        assert told.endswith(rest)
    assert await read(node, ids[-1]) == (204, b"")
    assert await read(node, ids[-1], more="&from=0") == (204, b"")


async def test_an_id_means_its_own_session_whatever_is_current(node: NodeHarness) -> None:
    first = await node.answered("c")
    _, told = await read(node)
    epoch, offset = LINE.findall(told)[0]
    last = f"{epoch.decode()}-{offset.decode()}"
    await node.answered("c", "another")
    status, rest = await read(node, last)
    assert (status, LINE.sub(b"", rest)) == (200, first[int(offset) :])
    assert (await read(node, last, more=f"&epoch={epoch.decode()}"))[0] == 200
    response = await node.http.get(
        f"/v1/stream?conv_id=c&ids=true&epoch={int(epoch) + 1}", headers={"Last-Event-ID": last}
    )
    assert "Last-Event-ID" in error_of(response)["message"]


async def test_what_is_wrong_with_an_id_is_told(node: NodeHarness) -> None:
    log = await node.answered("c")
    _, told = await read(node)
    epoch = int(LINE.findall(told)[0][0])
    assert (await read(node, "no id"))[0] == 400
    assert (await read(node, f"{epoch}-{len(log) + 1}"))[0] == 416
    assert (await read(node, f"{epoch + 1}-5"))[0] == 409
    assert (await read(node, f"{epoch}-5", name="never"))[0] == 404


async def test_without_ids_the_header_means_nothing(node: NodeHarness) -> None:
    log = await node.answered("c")
    response = await node.http.get("/v1/stream?conv_id=c", headers={"Last-Event-ID": "1-5"})
    assert (response.status_code, response.content) == (200, log)
    assert (await node.http.get("/v1/stream?conv_id=c&ids=maybe")).status_code == 400


async def test_a_live_log_is_given_ids_too(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("one")
    reading = asyncio.create_task(read(node))
    await producer.say("two", "three")
    await producer.complete()
    log = (await posting).content
    status, told = await reading
    assert (status, LINE.sub(b"", told)) == (200, log)
    assert told.count(b"id: ") == log.count(b"\n\n")
