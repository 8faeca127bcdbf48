"""``replayctl sessions tail``: follows a session's log until it ends.

Reads as any node does, through a ``Tailer``, but is no reader for whose sake a queued session is
kept alive: looking at a log must not write into it.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Protocol

import typer

from replay.cli import access, formatting
from replay.cli.log_events import EventSplitter, comment_of, texts
from replay.cli.options import (
    DEFAULT_REDIS_URL,
    DEFAULT_TENANT,
    AsJson,
    Epoch,
    Id,
    RedisUrl,
    Tenant,
)
from replay.cli.output import complain, note, write, write_bytes, write_json
from replay.cli.sessions import Asked, require_text
from replay.inspection import Inspector
from replay.records import Chunk, End, SessionRecord
from replay.redis_log import RedisLog
from replay.subscription import Subscription
from replay.tailer import Tailer

NO_KEEP_ALIVES_S = -1.0


class Form(Enum):
    """What of a log is printed."""

    EVENTS = "events"
    TEXT = "text"
    RAW = "raw"


def tail(
    name: Id,
    tenant: Tenant = DEFAULT_TENANT,
    epoch: Epoch = None,
    start: Annotated[
        int | None,
        typer.Option("--from", min=0, help="First byte to read; absent: the first retained one."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the answer's text.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the log's bytes as they are.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = DEFAULT_REDIS_URL,
) -> None:
    """Follows a session's log until its end; Ctrl-C leaves it, and the session goes on.

    Prints where each chunk lies, how large it is and what kinds of events it holds; the text only
    with --text or --raw. --json: one object a line, with "text" where --text is given.
    """
    if raw and (text or as_json):
        complain("--raw goes with neither --text nor --json")
        raise typer.Exit(access.ExitCode.USAGE)
    form = Form.RAW if raw else Form.TEXT if text else Form.EVENTS
    asked = Asked(redis_url, tenant, name, epoch)
    access.run(_tail(asked, start, form, as_json), redis_url=redis_url)


async def _tail(asked: Asked, start: int | None, form: Form, as_json: bool) -> None:
    async with access.plane(asked.redis_url) as redis:
        log = RedisLog(redis)
        record = await log.resolve(asked.tenant, asked.name, asked.epoch)
        if form is Form.TEXT:
            require_text(record)
        if start is None:
            start = (await Inspector(redis).detail(record)).first_offset
        printer = _printer(record, form, as_json)
        tailer = Tailer(
            log, lambda m, r: Subscription(asked.redis_url, on_message=m, on_reset=r).open()
        )
        async with (
            tailer,
            tailer.tail(record.ref, start, ping_interval_s=NO_KEEP_ALIVES_S) as entries,
        ):
            async for entry in entries:
                if isinstance(entry, Chunk):
                    printer.chunk(entry)
                else:
                    after = await log.record(record.ref)
                    printer.end(entry, after.token_count if after else 0)


class Printer(Protocol):
    """One form of printing a log."""

    def chunk(self, chunk: Chunk) -> None:
        """The next bytes."""
        ...

    def end(self, end: End, tokens: int) -> None:
        """The end; ``tokens`` were sampled in all."""
        ...


def _printer(record: SessionRecord, form: Form, as_json: bool) -> Printer:
    if form is Form.RAW:
        return RawPrinter()
    if as_json:
        return JsonPrinter(record.dialect if form is Form.TEXT else None)
    return TextPrinter(record.dialect) if form is Form.TEXT else EventPrinter()


class RawPrinter:
    """The bytes, and nothing else."""

    def chunk(self, chunk: Chunk) -> None:
        write_bytes(chunk.data)

    def end(self, end: End, tokens: int) -> None:
        """The bytes tell it."""


class TextPrinter:
    """The text as it comes; the end on stderr."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._splitter = EventSplitter()

    def chunk(self, chunk: Chunk) -> None:
        for piece in texts(self._splitter.feed(chunk.data), self._dialect):
            write(formatting.harmless(piece))

    def end(self, end: End, tokens: int) -> None:
        write("\n")
        note(end_line(end, tokens))


class EventPrinter:
    """A line for each chunk, without its text."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()

    def chunk(self, chunk: Chunk) -> None:
        write(chunk_line(chunk, self._splitter.feed(chunk.data)) + "\n")

    def end(self, end: End, tokens: int) -> None:
        write(end_line(end, tokens) + "\n")


class JsonPrinter:
    """An object for each chunk and the end; with a dialect the text too."""

    def __init__(self, dialect: str | None) -> None:
        self._dialect = dialect
        self._splitter = EventSplitter()

    def chunk(self, chunk: Chunk) -> None:
        frames = self._splitter.feed(chunk.data)
        more = {"text": "".join(texts(frames, self._dialect))} if self._dialect else {}
        write_json({**chunk_json(chunk, frames), **more})

    def end(self, end: End, tokens: int) -> None:
        told = {"state": end.state, "reason": end.reason, "size": end.size, "tokens": tokens}
        write_json({"kind": "end", **told})


def chunk_line(chunk: Chunk, frames: list[bytes]) -> str:
    """Where a chunk lies, its size, and what it holds; comments are the log's own words. Pure."""
    comments = _comments(frames)
    events = len(frames) - len(comments)
    held = [f"{events} event{'s' if events > 1 else ''}"] if events else []
    held += [f"comment {formatting.printable(said)!r}" for said in comments]
    return f"{chunk.start:>10,}  chunk  {len(chunk.data):>7,} bytes  {', '.join(held)}".rstrip()


def chunk_json(chunk: Chunk, frames: list[bytes]) -> dict[str, Any]:
    """The same for scripts. Pure."""
    comments = _comments(frames)
    return {
        "kind": "chunk",
        "start": chunk.start,
        "end": chunk.end,
        "bytes": len(chunk.data),
        "events": len(frames) - len(comments),
        "comments": comments,
    }


def end_line(end: End, tokens: int) -> str:
    """How the session ended. Pure."""
    state = formatting.state(end.state, end.reason)
    return f"{end.size:>10,}  end    {state}, {tokens:,} tokens"


def _comments(frames: list[bytes]) -> list[str]:
    return [said for frame in frames if (said := comment_of(frame)) is not None]
