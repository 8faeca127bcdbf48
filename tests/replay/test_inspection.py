"""What an operator finds: every live session, the retained ones within the bound, and no text."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from log_harness import append, close, opened, produced
from redis.asyncio import Redis

from replay import inspection, keys
from replay.identity import Conversation, SessionRef
from replay.inspection import Inspector, Query, QueueInspector, record_pattern
from replay.queue import job_id
from replay.records import SessionRecord, State
from replay.redis_log import RedisLog

pytestmark = pytest.mark.anyio

LIVE = frozenset({State.QUEUED, State.RUNNING})


def session(**fields: object) -> SessionRecord:
    return SessionRecord(
        **{"tenant": "t", "conversation": "c", "name": "c", "model": "m", "epoch": 1, **fields}
    )  # type: ignore[arg-type]


async def test_an_empty_redis_has_no_sessions(redis: Redis) -> None:
    listing = await Inspector(redis).sessions(Query())
    assert (listing.sessions, listing.matched, listing.is_whole) == ([], 0, True)


async def test_what_a_tenant_has_live_is_counted(redis: Redis) -> None:
    log = RedisLog(redis)
    for tenant, name in (("t", "a"), ("t", "b"), ("t", "over"), ("tt", "a")):
        await log.watch(Conversation(tenant, name), 60)
        _, claim = await produced(log, name, conversation=Conversation(tenant, name))
        if name == "over":
            await close(log, claim, 0)
    inspector = Inspector(redis)
    assert [await inspector.live(one) for one in ("t", "tt", "none")] == [2, 1, 0]


async def test_live_sessions_come_first_and_then_the_newest(redis: Redis) -> None:
    log = RedisLog(redis)
    for name in ("live", "old", "new"):
        await log.watch(Conversation("t", name), 60)
        ref, claim = await produced(log, name)
        await redis.hset(keys.record(ref), "created_ms", {"live": 1, "old": 2, "new": 3}[name])
        if name != "live":
            await close(log, claim, 0)
    listing = await Inspector(redis).sessions(Query())
    assert [record.conversation for record in listing.sessions] == ["live", "new", "old"]
    assert listing.matched == 3


async def test_a_session_of_both_index_and_scan_is_listed_once(redis: Redis) -> None:
    log = RedisLog(redis)
    await log.watch(Conversation("t", "c"), 60)
    await opened(log, "c")
    assert (await Inspector(redis).sessions(Query())).matched == 1


async def test_live_sessions_are_found_without_a_scan(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedisLog(redis)
    await log.watch(Conversation("t", "watched"), 60)
    await opened(log, "watched")
    await opened(log, "only a scan finds this one")
    monkeypatch.setattr(Redis, "scan", None, raising=False)
    listing = await Inspector(redis).sessions(Query(states=LIVE))
    assert [record.conversation for record in listing.sessions] == ["watched"]


async def test_a_bounded_scan_says_so_and_still_has_every_live_session(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "SCAN_PAGE_KEYS", 1)
    log = RedisLog(redis)
    for index in range(20):
        _, claim = await produced(log, f"ended-{index}")
        await close(log, claim, 0)
    await log.watch(Conversation("t", "live"), 60)
    await opened(log, "live")
    listing = await Inspector(redis, scan_keys_max=1).sessions(Query())
    assert not listing.is_whole
    assert listing.sessions[0].conversation == "live"
    assert listing.matched < 21
    whole = await Inspector(redis).sessions(Query())
    assert (whole.is_whole, whole.matched) == (True, 21)


async def test_only_the_newest_are_kept_while_all_are_counted(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "SCAN_PAGE_KEYS", 1)
    log = RedisLog(redis)
    for index in range(12):
        ref, claim = await produced(log, f"c{index}")
        await close(log, claim, 0)
        await redis.hset(keys.record(ref), "created_ms", 100 + index)
    listing = await Inspector(redis).sessions(Query(most=2))
    assert [record.conversation for record in listing.sessions] == ["c11", "c10"]
    assert listing.matched == 12


async def test_a_scan_for_a_tenant_sees_no_other_tenants_keys(redis: Redis) -> None:
    log = RedisLog(redis)
    for tenant in ("t", "tt", "[*"):
        await opened(log, "c", conversation=Conversation(tenant, "c"))
        listing = await Inspector(redis).sessions(Query(tenant=tenant))
        assert [record.tenant for record in listing.sessions] == [tenant]


async def test_an_evicted_session_is_not_listed(redis: Redis) -> None:
    log = RedisLog(redis)
    await opened(log, "c")
    await log.stop("t", "c", epoch=None, keep=False, reason="client")
    assert (await Inspector(redis).sessions(Query())).matched == 0


@pytest.mark.parametrize(
    ("query", "accepted"),
    [
        (Query(), True),
        (Query(states=LIVE), True),
        (Query(states=frozenset({State.LOST})), False),
        (Query(model="m", tenant="t"), True),
        (Query(model="other"), False),
        (Query(tenant="other"), False),
    ],
)
async def test_a_query_accepts_what_every_filter_accepts(query: Query, accepted: bool) -> None:
    assert query.accepts(session(), now_ms=1) is accepted


async def test_a_session_past_its_retention_is_not_accepted() -> None:
    assert Query().accepts(session(expires_ms=11), now_ms=10)
    assert not Query().accepts(session(expires_ms=10), now_ms=10)


async def test_the_pattern_matches_records_alone() -> None:
    ref = SessionRef("a:b*", "x::y{}", "org/m", 7)
    for pattern in (record_pattern(""), record_pattern("a:b*")):
        assert fnmatchcase(keys.record(ref), pattern)
        for other in (keys.stream, keys.tokens, keys.channel):
            assert not fnmatchcase(other(ref), pattern)
        assert not fnmatchcase(keys.route(ref.conversation), pattern)
    assert not fnmatchcase(keys.record(ref), record_pattern("a"))


async def test_a_detail_counts_what_it_does_not_show(redis: Redis) -> None:
    log = RedisLog(redis)
    _, claim = await produced(log)
    await append(log, claim, 0, b"x" * 100)
    await close(log, claim, 100, b"y" * 10)
    record = await log.resolve("t", "c", None)
    detail = await Inspector(redis).detail(record)
    assert (detail.prompt_token_count, detail.request_bytes) == (3, len('{"messages":[]}'))
    assert (detail.entries, detail.first_offset) == (3, 0)
    assert record.ended_ms <= detail.now_ms < record.ended_ms + 60_000
    assert 7_200_000 <= detail.ttl_ms <= 7_320_000


async def test_a_trimmed_window_begins_at_its_first_retained_byte(redis: Redis) -> None:
    log = RedisLog(redis)
    _, claim = await produced(log)
    for start in range(0, 50, 10):
        await append(log, claim, start, b"0123456789", window_bytes=20)
    detail = await Inspector(redis).detail(await log.resolve("t", "c", None))
    assert 0 < detail.first_offset <= 30
    assert (await log.read(claim.ref, detail.first_offset)).chunks[0].start == detail.first_offset


async def test_an_empty_log_has_its_window_at_its_end(redis: Redis) -> None:
    log = RedisLog(redis)
    _, claim = await produced(log)
    await close(log, claim, 0)
    detail = await Inspector(redis).detail(await log.resolve("t", "c", None))
    assert (detail.entries, detail.first_offset) == (1, 0)


async def test_the_request_is_read_only_by_its_own_question(redis: Redis) -> None:
    log = RedisLog(redis)
    ref = (await opened(log, "c", request='{"messages":["secret"]}')).ref
    inspector = Inspector(redis)
    assert await inspector.request(ref) == '{"messages":["secret"]}'
    (listed,) = (await inspector.sessions(Query())).sessions
    assert "secret" not in repr(listed)


async def test_the_rank_is_how_many_jobs_stand_before(redis: Redis) -> None:
    log = RedisLog(redis)
    await opened(log, "c")
    record = await log.resolve("t", "c", None)
    queue = QueueInspector(redis)
    assert await queue.rank(record) is None
    await redis.zadd(keys.queue("m"), {"other": 1, job_id(record.ref, 1): 2})
    await redis.expire(keys.queue("m"), 60)
    assert await queue.rank(record) == 1
