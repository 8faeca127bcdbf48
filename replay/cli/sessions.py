"""``replayctl sessions ls``, ``show`` and ``stop``.

A command's parameters are its options, so there may be more of them than elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from replay.cli import access, formatting, views
from replay.cli.log_events import TEXT_OF, EventSplitter, texts
from replay.cli.options import (
    DEFAULT_REDIS_URL,
    DEFAULT_TENANT,
    AsJson,
    Epoch,
    Full,
    Id,
    QueueRedisUrl,
    RedisUrl,
    Tenant,
)
from replay.cli.output import agrees, complain, note, write, write_fields, write_json, write_table
from replay.errors import LogUnavailable, SessionNotFound
from replay.inspection import Detail, Inspector, Query, QueueInspector
from replay.log_values import Stopped
from replay.records import Reason, SessionRecord, State
from replay.redis_log import RedisLog
from replay.redis_plane import connect_queue


@dataclass(frozen=True, slots=True)
class Asked:
    """The session that a command is about, and where it is."""

    redis_url: str
    tenant: str
    name: str
    epoch: int | None


def ls(
    states: Annotated[
        list[State] | None,
        typer.Option("--state", help="Only sessions in this state; may be given repeatedly."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Only this model's.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only this tenant's.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    full: Full = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
) -> None:
    """Lists sessions: the live ones first, then those retained, the newest first.

    States that have not ended (queued, loading, running) are read from an index and cost little;
    for others all of Redis's keys are scanned, in pages and up to a million. --json: one array of
    session records, times in milliseconds, without prompt, request and text.
    """
    query = Query(states=frozenset(states or ()), model=model, tenant=tenant, most=limit)
    access.run(_ls(query, redis_url, full=full, as_json=as_json), redis_url=redis_url)


async def _ls(query: Query, redis_url: str, *, full: bool, as_json: bool) -> None:
    async with access.plane(redis_url) as redis:
        listing = await Inspector(redis).sessions(query)
    if as_json:
        write_json([views.session_json(record) for record in listing.sessions])
    elif listing.sessions:
        rows = [views.session_row(r, listing.now_ms, full=full) for r in listing.sessions]
        write_table(views.SESSION_COLUMNS, rows)
    else:
        note("no sessions")
    if listing.matched > len(listing.sessions):
        note(f"{len(listing.sessions):,} of {listing.matched:,} shown; --limit shows more")
    if not listing.is_whole:
        note("Redis holds more keys than were looked at: sessions that have ended may be missing")


def show(
    name: Id,
    tenant: Tenant = DEFAULT_TENANT,
    epoch: Epoch = None,
    request: Annotated[
        bool, typer.Option("--request", help="Show the request too: what the user wrote.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="Show the answer's text too.")] = False,
    full: Full = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
    queue_redis_url: QueueRedisUrl = "",
) -> None:
    """Shows one session: its record, its log's extent, its timeline and its place in the queue.

    Of prompt, request and answer only counts and sizes, unless --request or --text asks for them.
    --json: one object, with "request" and "text" where asked for.
    """
    asked = Asked(redis_url, tenant, name, epoch)
    shown = _Shown(request=request, text=text, full=full, as_json=as_json)
    access.run(_show(asked, queue_redis_url or redis_url, shown), redis_url=redis_url)


@dataclass(frozen=True, slots=True)
class _Shown:
    request: bool
    text: bool
    full: bool
    as_json: bool


async def _show(asked: Asked, queue_redis_url: str, shown: _Shown) -> None:
    async with access.plane(asked.redis_url) as redis:
        log, inspector = RedisLog(redis), Inspector(redis)
        record = await log.resolve(asked.tenant, asked.name, asked.epoch)
        detail = await inspector.detail(record)
        request = await inspector.request(record.ref) if shown.request else None
        text = await stored_text(log, record, detail) if shown.text else None
    rank, rank_told = await _rank(queue_redis_url, record)
    if shown.as_json:
        more = {"request": json.loads(request)} if request is not None else {}
        more |= {"text": text} if text is not None else {}
        write_json({**views.detail_json(record, detail, rank), **more})
        return
    write_fields(views.detail_fields(record, detail, rank=rank_told, full=shown.full))
    if request is not None:
        pretty = json.dumps(json.loads(request), indent=2, ensure_ascii=False)
        write(f"\nrequest:\n{formatting.harmless(pretty)}\n")
    if text is not None:
        write(f"\ntext:\n{formatting.harmless(text)}\n")


async def _rank(queue_redis_url: str, record: SessionRecord) -> tuple[int | None, str]:
    """The session's place in its queue, as a number and in words; the queue plane may be away."""
    if record.state is not State.QUEUED:
        return None, "-"
    try:
        async with access.opened(connect_queue(queue_redis_url)) as redis:
            rank = await QueueInspector(redis).rank(record)
    except LogUnavailable:
        return None, "unknown, the queue plane does not answer"
    except ValueError as error:
        return None, f"unknown, see --queue-redis-url: {error}"
    return rank, "has no job" if rank is None else f"{rank:,} before it"


async def stored_text(log: RedisLog, record: SessionRecord, detail: Detail) -> str:
    """The answer's text as far as it is stored and retained."""
    require_text(record)
    splitter, pieces, position = EventSplitter(), list[str](), detail.first_offset
    while True:
        page = await log.read(record.ref, position)
        for chunk in page.chunks:
            pieces += texts(splitter.feed(chunk.data), record.dialect)
            position = chunk.end
        if page.end is not None or not page.chunks:
            return "".join(pieces)


def require_text(record: SessionRecord) -> None:
    """Exits as wrong usage where nobody here reads text in the session's dialect."""
    if record.dialect not in TEXT_OF:
        complain(f"no text can be read from dialect {record.dialect!r}; see `tail --raw`")
        raise typer.Exit(access.ExitCode.USAGE)


def stop(
    name: Id,
    tenant: Tenant = DEFAULT_TENANT,
    epoch: Epoch = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--evict",
            help="Keep the bytes readable until their retention ends (safe), or evict them and all "
            "earlier sessions of the conversation.",
        ),
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Evict without asking.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
) -> None:
    """Stops a conversation's current session, as its client's Stop would, and prints its state.

    What has been generated stays readable, unless --evict, which asks first. Stopping what has
    ended changes nothing and is no error. --epoch stops that session or none. --json: one object.
    """
    asked = Asked(redis_url, tenant, name, epoch)
    access.run(_stop(asked, keep=keep, yes=yes, as_json=as_json), redis_url=redis_url)


async def _stop(asked: Asked, *, keep: bool, yes: bool, as_json: bool) -> None:
    async with access.plane(asked.redis_url) as redis:
        log = RedisLog(redis)
        found = await _found(log, asked)
        if isinstance(found, SessionRecord) and not (keep or yes):
            _confirm_evict(found)
        # Asked for even where nothing was found: a POST may be about to open it.
        stopped = await log.stop(
            asked.tenant, asked.name, epoch=asked.epoch, keep=keep, reason=Reason.OPERATOR
        )
        if not keep:
            await log.erased(asked.tenant, asked.name)
    if stopped is not None:
        _tell_stopped(stopped, evicted=not keep, as_json=as_json)
    elif isinstance(found, SessionNotFound) and found.cause:
        _tell_gone(found, as_json)
    else:
        raise SessionNotFound(asked.name)


async def _found(log: RedisLog, asked: Asked) -> SessionRecord | SessionNotFound:
    try:
        return await log.resolve(asked.tenant, asked.name, asked.epoch)
    except SessionNotFound as error:
        return error


def _tell_stopped(stopped: Stopped, *, evicted: bool, as_json: bool) -> None:
    if as_json:
        write_json(views.stop_json(stopped, evicted=evicted))
    else:
        write(views.stop_line(stopped, evicted=evicted) + "\n")


def _tell_gone(error: SessionNotFound, as_json: bool) -> None:
    if as_json:
        write_json({"conversation": error.session_id, "stopped": False, "gone": error.cause})
    else:
        write(f"nothing left to stop: {error.cause}\n")


def _confirm_evict(record: SessionRecord) -> None:
    state = formatting.state(record.state, record.reason)
    question = (
        f"Evict {formatting.printable(record.conversation)} ({state}, epoch {record.epoch}, "
        f"{formatting.size(record.end)}) and all its earlier sessions?"
    )
    if not agrees(question):
        complain("nothing was stopped; --evict wants a yes, or --yes")
        raise typer.Exit(access.ExitCode.USAGE)
