"""GET, lookup and DELETE, on whichever node the session was not started."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_harness import MODEL, NodeHarness, error_of, memory_node, model, wait_until, worker

from api.requests import parse_offset
from api.stream import names_asked
from replay.errors import LogUnavailable, OffsetInvalid

pytestmark = pytest.mark.anyio

NAMES = ["plain", "a/b/c", "50%25", "{tag}", "two words", "🙂", "a::b", f"x::{MODEL}", "1+1=2&x"]


def by_query(name: str, **more: object) -> str:
    return str(httpx.URL("/v1/stream", params={"conv_id": name, **more}))


@pytest.mark.parametrize("name", NAMES)
async def test_every_form_of_address_finds_the_session(node: NodeHarness, name: str) -> None:
    log = await node.answered(name)
    slashes_kept, all_escaped = quote(name, safe="/:"), quote(name, safe="")
    for address in (
        by_query(name, **{"from": 5}),
        f"/v1/stream/{slashes_kept}?from=5",
        f"/v1/stream/{all_escaped}?from=5",
    ):
        response = await node.http.get(address)
        assert (response.status_code, response.content) == (200, log[5:]), address


async def test_a_path_is_decoded_once(node: NodeHarness) -> None:
    log = await node.answered("a%2Fb")
    assert (await node.http.get("/v1/stream/a%252Fb")).content == log
    assert (await node.http.get("/v1/stream/a%2Fb")).status_code == 404


async def test_every_offset_of_a_finished_log_replays_the_rest(node: NodeHarness) -> None:
    log = await node.answered("c")
    for offset in range(len(log) + 1):
        response = await node.http.get(by_query("c", **{"from": offset}))
        assert (response.status_code, response.content) == (200, log[offset:])
        assert response.headers["x-stream-offset"] == str(offset)
        assert response.headers["x-stream-state"] == "completed"


async def test_beyond_the_end_is_416_with_the_size(node: NodeHarness) -> None:
    log = await node.answered("c")
    for beyond in (len(log) + 1, 2**31, 2**53, 2**63, 2**64, int("9" * 4000)):
        response = await node.http.get(f"/v1/stream?conv_id=c&from={beyond}")
        assert (response.status_code, error_of(response)["size"]) == (416, len(log))


async def test_beyond_the_end_of_a_live_log_is_416_too(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("hi")
    response = await served.http.get(by_query("c", **{"from": producer.end + 1}))
    assert (response.status_code, error_of(response)["size"]) == (416, producer.end)
    await producer.complete()
    await posting


@pytest.mark.parametrize(
    "text", ["-1", "1e3", "0x10", "12abc", "%205", "%2B5", "", "1&from=2", "%D9%A3", "1.0", "%00"]
)
async def test_what_is_no_decimal_is_400(node: NodeHarness, text: str) -> None:
    await node.answered("c")
    response = await node.http.get(f"/v1/stream?conv_id=c&from={text}")
    assert response.status_code == 400
    assert "'from'" in error_of(response)["message"]


async def test_an_unknown_session_is_404_before_its_offset_is_read(node: NodeHarness) -> None:
    assert (await node.http.get("/v1/stream?conv_id=c&from=x")).status_code == 404


@given(text=st.text())
def test_any_text_is_an_offset_or_refused(text: str) -> None:
    try:
        assert parse_offset({"from": [text]}) >= 0
    except OffsetInvalid:
        assert not (text.isascii() and text.isdigit())


async def test_below_the_window_is_410_with_the_first_offset(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("one")
    cut_off = producer.end
    await producer.put(producer.chunk({"content": "two"}), window_bytes=1)
    await producer.complete()
    await posting
    response = await node.http.get(by_query("c", **{"from": 3}))
    assert (response.status_code, error_of(response)["first_offset"]) == (410, cut_off)
    assert (await node.http.get(by_query("c", **{"from": cut_off}))).status_code == 200


async def test_epochs_are_told_apart(node: NodeHarness) -> None:
    first = await node.answered("c", "first")
    epoch = (await node.log.resolve("default", "c", None)).epoch
    second = await node.answered("c", "second")
    assert (await node.http.get(by_query("c", epoch=epoch))).content == first
    assert (await node.http.get(by_query("c"))).content == second
    later = await node.http.get(by_query("c", epoch=10**15))
    assert later.status_code == 409
    assert error_of(later)["current_epoch"] > epoch


@pytest.mark.parametrize("epoch", ["0", "x", "-1", "", "1&epoch=2"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_is_no_epoch_is_400(node: NodeHarness, method: str, epoch: str) -> None:
    await node.answered("c")
    response = await node.http.request(method, f"/v1/stream?conv_id=c&epoch={epoch}")
    assert response.status_code == 400


async def test_readers_follow_a_live_session_to_its_end(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("one")
    async with served.http.stream("GET", by_query("c", **{"from": 7})) as response:
        assert response.headers["x-stream-state"] == "running"
        await producer.say("two")
        await producer.complete()
        tail = b"".join([part async for part in response.aiter_raw()])
    assert tail == (await posting).content[7:]


async def test_a_reader_at_the_live_end_gets_its_headers_at_once(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("one")
    address = by_query("c", **{"from": producer.end})
    async with served.http.stream("GET", address) as response:
        assert response.status_code == 200
        await producer.complete()
        assert (await response.aread()).endswith(b"[DONE]\n\n")
    await posting


async def test_a_reader_that_leaves_touches_nothing(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    async with served.http.stream("GET", by_query("c")):
        pass
    await wait_until(lambda: len(served.app.state.connections) == 1)
    await producer.complete()
    assert (await posting).status_code == 200


async def test_while_the_model_loads_a_queued_session_is_503(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    await wait_until(lambda: bool(node.queue.jobs))
    node.workers.records = [worker("w", model(MODEL, "loading"))]
    node.forget_picture()
    response = await node.http.get(by_query("c"))
    assert (response.status_code, error_of(response)["reason"]) == (503, "loading")
    assert response.headers["retry-after"] == "1"
    producer = await node.producer()
    await producer.say("hi")
    await producer.complete()
    assert (await node.http.get(by_query("c"))).status_code == 200
    await posting


async def test_lookup_tells_state_and_place(node: NodeHarness) -> None:
    await node.answered("done")
    posting = asyncio.create_task(node.post(name="waits", stream=True))
    await wait_until(lambda: bool(node.queue.jobs))
    asked = {"conversation_ids": ["done", "waits", "unknown", 7, ""]}
    found = (await node.http.post("/v1/streams/lookup", json=asked)).json()
    done, waits = sorted(found, key=lambda one: one["conversation_id"])
    assert (done["is_done"], done["state"], done["reason"]) == (True, "completed", "stop")
    assert done["queue_position"] is None and done["completed_at"] >= done["started_at"] > 0
    assert (waits["is_done"], waits["state"], waits["queue_position"]) == (False, "queued", 0)
    assert (waits["completed_at"], waits["total_bytes"], waits["model"]) == (0, 0, MODEL)
    await (await node.producer()).complete()
    await posting


@pytest.mark.parametrize("body", ["{}", "[]", '{"conversation_ids":null}', '"x"', "3"])
async def test_a_lookup_of_nothing_finds_nothing(node: NodeHarness, body: str) -> None:
    response = await node.http.post("/v1/streams/lookup", content=body)
    assert (response.status_code, response.json()) == (200, [])


async def test_a_lookup_that_is_no_json_is_400(node: NodeHarness) -> None:
    assert (await node.http.post("/v1/streams/lookup", content="{")).status_code == 400


async def test_a_lookup_of_too_many_is_400() -> None:
    async with memory_node(lookup_ids_max=2) as node:
        asked = {"conversation_ids": ["a", "b", "c"]}
        assert (await node.http.post("/v1/streams/lookup", json=asked)).status_code == 400


@given(body=st.recursive(st.none() | st.integers() | st.text(), st.lists), most=st.just(10**6))
def test_names_asked_are_texts(body: object, most: int) -> None:
    assert all(
        isinstance(name, str) and name for name in names_asked({"conversation_ids": body}, most)
    )


async def test_a_stop_evicts_and_says_what_was(node: NodeHarness) -> None:
    log = await node.answered("c")
    epoch = (await node.log.resolve("default", "c", None)).epoch
    response = await node.http.delete(by_query("c"))
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["x-stream-epoch"] == str(epoch)
    assert response.headers["x-stream-state"] == "completed"
    assert response.headers["x-stream-size"] == str(len(log))
    gone = await node.http.get(by_query("c"))
    assert (gone.status_code, error_of(gone)["reason"]) == (404, "completed (stop) and evicted")
    assert (await node.http.delete(by_query("c"))).status_code == 204


async def test_a_stop_that_keeps_leaves_what_was_said(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("so far")
    node.log.release(producer.claim.ref)
    response = await node.http.delete("/v1/stream/c?keep=true")
    assert response.headers["x-stream-state"] == "stopped"
    kept = (await node.http.get(by_query("c"))).content
    assert b"so far" in kept and kept.endswith(b': end {"state":"stopped","reason":"client"}\n\n')
    assert (await posting).content == kept


async def test_a_stop_waits_for_its_producer(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("hi")
    stopping = asyncio.create_task(served.http.delete(by_query("c")))
    await wait_until(lambda: bool(served.log.told))
    assert not stopping.done()
    served.log.release(producer.claim.ref)
    assert (await stopping).status_code == 204
    await posting


async def test_an_eviction_has_taken_effect_before_it_waits_for_the_disk(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, synced = asyncio.Event(), asyncio.Event()

    async def erased(tenant: str, name: str) -> None:
        waits.set()
        await synced.wait()

    monkeypatch.setattr(node.log, "erased", erased)
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    node.log.release(producer.claim.ref)
    stopping = asyncio.create_task(node.http.delete(by_query("c")))
    await waits.wait()
    assert (await posting).status_code == 400
    assert (await node.http.get(by_query("c"))).status_code == 404
    assert not stopping.done()
    synced.set()
    assert (await stopping).status_code == 204


async def test_an_eviction_that_a_slow_disk_may_forget_is_503_and_stands(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def erased(tenant: str, name: str) -> None:
        raise LogUnavailable("waiting for the disk")

    monkeypatch.setattr(node.log, "erased", erased)
    await node.answered("c")
    assert (await node.http.delete(by_query("c", keep="true"))).status_code == 204
    assert (await node.http.delete(by_query("c"))).status_code == 503
    assert (await node.http.get(by_query("c"))).status_code == 404


async def test_a_queued_session_that_was_opened_beside_its_stop_leaves_the_queue_too(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, opened = node.log.stop, asyncio.Event()

    async def late(*args: object, **more: object) -> object:
        opened.set()
        await wait_until(lambda: bool(node.queue.jobs))
        return await stop(*args, **more)

    monkeypatch.setattr(node.log, "stop", late)
    stopping = asyncio.create_task(node.http.delete(by_query("c", keep="true")))
    await opened.wait()
    posting = asyncio.create_task(node.post(name="c", stream=True))
    assert (await stopping).headers["x-stream-state"] == "stopped"
    assert node.queue.jobs == []
    assert (await posting).status_code == 400


async def test_a_stop_of_another_epoch_touches_nothing(node: NodeHarness) -> None:
    log = await node.answered("c")
    response = await node.http.delete(by_query("c", epoch=1))
    assert response.status_code == 409
    assert (await node.http.get(by_query("c"))).content == log


async def test_a_stop_of_what_redis_may_have_forgotten_is_asked_for_again(
    node: NodeHarness,
) -> None:
    await node.answered("c")
    recovery = node.app.state.node.recovery
    await recovery._ask()
    recovery.look()
    for address in (by_query("c", epoch=10**15), by_query("none")):
        response = await node.http.delete(address)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("address", ["/v1/stream", "/v1/stream?conv_id=", "/v1/stream/"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_an_id_it_is_400(node: NodeHarness, method: str, address: str) -> None:
    response = await node.http.request(method, address)
    assert response.status_code == 400
    assert "Missing conversation id" in error_of(response)["message"]


@pytest.mark.parametrize("name", ["unknown", "a%0Ab", "x" * 5000, "::", "a::" * 300])
async def test_a_stop_of_nothing_is_204(node: NodeHarness, name: str) -> None:
    assert (await node.http.delete(f"/v1/stream/{name}")).status_code == 204
    assert (await node.http.get(f"/v1/stream/{name}")).status_code == 404


@pytest.mark.parametrize("address", ["/v1/stream/%FF", "/v1/stream?conv_id=%FF"])
async def test_an_id_that_is_no_utf8_is_400(node: NodeHarness, address: str) -> None:
    assert (await node.http.get(address)).status_code == 400


@pytest.mark.parametrize("path", ["/v1/streams/lookup", "/v1/streams/events"])
async def test_nobody_is_told_that_nothing_is_there_while_redis_may_have_forgotten_it(
    node: NodeHarness, path: str
) -> None:
    recovery = node.app.state.node.recovery
    await recovery._ask()
    recovery.look()
    response = await node.http.post(path, json={"conversation_ids": ["none"]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
