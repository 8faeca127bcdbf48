"""Whatever a client says in ``from``: exact bytes or a documented refusal, finished and live."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from cluster_client import Client, error_of

pytestmark = pytest.mark.anyio

NO_OFFSETS = [
    "-1",
    "1e3",
    "0x10",
    "12abc",
    " 5",
    "5 ",
    "+5",
    "",
    "5.0",
    "\u0663",
    "\uff15",
    "\u00b2",
    "1_0",
    "\x00",
    "NaN",
    "true",
    "1,2",
    "5\n",
]
BEYOND = [2**31, 2**53, 2**63, 2**64, 10**4000]


@pytest.mark.guarantee("T18")
async def test_a_finished_log_is_exact_or_refused(scripted: Client, name: str) -> None:
    log = (await scripted.post(name, "[[tokens=40 rate=0]]", stream=True)).content
    for offset in (0, 1, len(log) // 2, len(log) - 1, len(log)):
        for text in (str(offset), f"000{offset}", "0" * 30 + str(offset)):
            await is_exact(scripted, name, text, log[offset:])
    for beyond in (len(log) + 1, *BEYOND):
        await is_beyond(scripted, name, beyond, len(log))


@pytest.mark.guarantee("T18")
async def test_a_live_log_is_exact_or_refused(scripted: Client, name: str) -> None:
    async with scripted.posting(name, "[[tokens=100000 rate=5 seed=1]]") as post:
        log = await post.has(1000)
        for beyond in BEYOND:
            answer = await scripted.read(name, node=1, from_=beyond)
            assert answer.status_code == 416
            assert error_of(answer)["size"] >= len(log)
        await refuses_what_is_no_offset(scripted, name)
        async with (
            scripted.reading(name, node=1, from_=len(log)) as at_the_end,
            scripted.reading(name, from_=len(log) - 1) as before_it,
        ):
            assert (await at_the_end.head()).status_code == 200
            await before_it.has(2)
            await scripted.stop(name)
            log = await post.whole()
            assert log.endswith(await at_the_end.whole())
            assert log.endswith(await before_it.whole())
            assert len(before_it.data) == len(at_the_end.data) + 1


@pytest.mark.guarantee("T18")
async def test_what_is_no_offset_is_refused(scripted: Client, name: str) -> None:
    await scripted.post(name, "[[tokens=3 rate=0]]")
    await refuses_what_is_no_offset(scripted, name)


@pytest.mark.guarantee("T18")
async def test_an_offset_that_is_said_twice_is_refused(scripted: Client, name: str) -> None:
    await scripted.post(name, "[[tokens=3 rate=0]]")
    for address in (f"/v1/stream?conv_id={name}&from=1&from=1", f"/v1/stream/{name}?from=1&from=2"):
        answer = await scripted.nodes[1].get(address)
        assert answer.status_code == 400
        assert "'from'" in error_of(answer)["message"]


async def test_no_offset_is_the_start(scripted: Client, name: str) -> None:
    log = (await scripted.post(name, "[[tokens=3 rate=0]]", stream=True)).content
    assert (await scripted.nodes[1].get(f"/v1/stream/{name}")).content == log


async def is_exact(client: Client, name: str, text: str, rest: bytes) -> None:
    """Both nodes answer with exactly the rest."""
    for node in range(2):
        answer = await client.read(name, node=node, from_=text)
        assert (answer.status_code, answer.content) == (200, rest), text


async def is_beyond(client: Client, name: str, offset: int, size: int) -> None:
    """Both nodes say that the log is not so long."""
    for node in range(2):
        answer = await client.read(name, node=node, from_=offset)
        assert (answer.status_code, error_of(answer)["size"]) == (416, size)


async def refuses_what_is_no_offset(client: Client, name: str) -> None:
    """Both nodes refuse, and say what."""
    for number, text in enumerate(NO_OFFSETS):
        address = f"/v1/stream?conv_id={name}&from={quote(text)}"
        answer = await client.nodes[number % 2].get(address)
        assert answer.status_code == 400, text
        assert "'from'" in error_of(answer)["message"], text
