"""Redis as PROTOCOL.md's part B describes it, written by hand: another implementation's view.

What this module plants, our nodes must be able to read.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from redis import Redis

from .wire import until

END_ID = "18446744073709551615-18446744073709551615"
TTL_S = 600
MODEL = "planted"


def encoded(part: str) -> str:
    """A part of a key: letters, digits and ``-._~`` as they are, the rest percent-encoded."""
    return quote(part, safe="")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one session."""

    conversation: str
    model: str
    epoch: int
    tenant: str = "default"

    @property
    def stem(self) -> str:
        """With the hash tag."""
        base = self.conversation.split("::")[0].rstrip(":")
        return f"rc:{{{encoded(self.tenant)}:{encoded(base)}}}:"

    @property
    def session(self) -> str:
        """What the session's own keys begin with."""
        named = f"{encoded(self.conversation)}::{encoded(self.model)}"
        return f"{self.stem}{named}:{self.epoch}"

    @property
    def record(self) -> str:
        """Hash."""
        return self.session + ":record"

    @property
    def stream(self) -> str:
        """Stream."""
        return self.session + ":stream"

    @property
    def tokens(self) -> str:
        """String."""
        return self.session + ":tokens"

    @property
    def channel(self) -> str:
        """Channel."""
        return self.session + ":channel"

    @property
    def route(self) -> str:
        """Hash."""
        return f"{self.stem}route:{encoded(self.conversation)}"

    @property
    def conversations(self) -> str:
        """Set."""
        return self.stem + "conversations"

    @property
    def path(self) -> str:
        """What the session is called in jobs."""
        parts = (self.tenant, self.conversation, self.model, str(self.epoch))
        return "/".join(map(encoded, parts))

    @property
    def queue(self) -> str:
        """Sorted set of the queue plane."""
        return f"rc:queue:{encoded(self.model)}"

    def shards(self, redis: Redis) -> list[str]:
        """Where the watch index names the conversation."""
        path = f"{encoded(self.tenant)}/{encoded(self.conversation)}"
        shards = [f"rc:live:{{{number}}}" for number in range(16)]
        return [key for key in shards if redis.zscore(key, path) is not None]


@dataclass(frozen=True, slots=True)
class Stored:
    """One session in Redis."""

    redis: Redis
    keys: Keys

    @property
    def fields(self) -> dict[str, str]:
        """The record, less the prompt's bytes."""
        raw = self.redis.hgetall(self.keys.record)
        return {k.decode(): v.decode() for k, v in raw.items() if k != b"prompt"}

    @property
    def takeovers(self) -> int:
        """How often a worker went on after another had died; a claim that was given up is none."""
        fields = self.fields
        return int(fields["attempt"]) - int(fields.get("hand_overs", 0)) - 1

    @property
    def prompt(self) -> bytes:
        """The prompt's tokens as they are stored."""
        return self.redis.hget(self.keys.record, "prompt") or b""

    @property
    def route(self) -> dict[str, str]:
        """The conversation's entry in the map."""
        raw = self.redis.hgetall(self.keys.route)
        return {k.decode(): v.decode() for k, v in raw.items()}

    @property
    def entries(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """The stream."""
        return [(i.decode(), found) for i, found in self.redis.xrange(self.keys.stream)]

    @property
    def chunks(self) -> list[tuple[int, bytes]]:
        """The entries that hold bytes, with the offsets at which these end."""
        return [(int(i.split("-")[0]), found[b"d"]) for i, found in self.entries if b"d" in found]

    @property
    def log(self) -> bytes:
        """The bytes that are stored."""
        return b"".join(data for _, data in self.chunks)

    @property
    def end(self) -> dict[str, Any] | None:
        """The end entry, its size as a number."""
        last = self.redis.xrange(self.keys.stream, END_ID, END_ID)
        found = json.loads(last[0][1][b"end"]) if last else None
        return {**found, "size": int(found["size"])} if found else None

    @property
    def blocks(self) -> list[tuple[int, bytes]]:
        """The entries of a compacted log, each unpacked alone, with the offsets of their ends."""
        found = []
        for entry_id, fields in self.entries:
            if b"z" in fields:
                assert set(fields) == {b"z", b"n"} and entry_id.endswith("-0")
                data = zlib.decompressobj(-15).decompress(fields[b"z"])
                assert len(data) == int(fields[b"n"])
                found.append((int(entry_id.split("-")[0]), data))
        return found

    def compact(self, *sizes: int) -> Stored:
        """Makes blocks of so many entries each, as another implementation may."""
        chunks, last = self.chunks, self.entries[-1]
        self.redis.delete(self.keys.stream)
        packed_bytes = 0
        for size in sizes:
            taken, chunks = chunks[:size], chunks[size:]
            data = b"".join(part for _, part in taken)
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
            entry = {"z": packed, "n": len(data)}
            self.redis.xadd(self.keys.stream, entry, id=f"{taken[-1][0]}-0")
            packed_bytes += len(packed)
        self.redis.xadd(self.keys.stream, last[1], id=END_ID)
        self.redis.expire(self.keys.stream, TTL_S)
        self.redis.hset(self.keys.record, "packed_bytes", packed_bytes)
        return self

    def reaches(self, *states: str) -> dict[str, str]:
        """The record, once the session is in one of these states."""
        return until(lambda: self.fields if self.fields.get("state") in states else {})

    def conclude(self, state: str, reason: str, closing: bytes = b"") -> None:
        """Ends the session as a script would: closing bytes, end, record, one message."""
        size = int(self.fields["end"])
        if closing:
            size += len(closing)
            self.redis.xadd(self.keys.stream, {"d": closing}, id=f"{size}-0")
        told = json.dumps({"state": state, "reason": reason, "size": size})
        self.redis.xadd(self.keys.stream, {"end": told}, id=END_ID)
        ended = {"state": state, "reason": reason, "end": size, "ended_ms": now_ms()}
        self.redis.hset(self.keys.record, mapping=ended)
        for key in (self.keys.stream, self.keys.record):
            self.redis.expire(key, TTL_S)
        self.redis.publish(self.keys.channel, "e" + told)


def now_ms() -> int:
    """The time as Redis counts it, on one machine."""
    return int(time.time() * 1000)


def stored(redis: Redis, conversation: str, *, tenant: str = "default") -> Stored:
    """The current session of a conversation, or the one that was it last."""
    base = Keys(conversation, "", 0, tenant)
    raw = until(lambda: redis.hgetall(base.route))
    epoch = int(raw[b"current"] or raw[b"epoch"])
    return Stored(redis, Keys(conversation, unquote(raw[b"model"].decode()), epoch, tenant))


def asked_with(redis: Redis, words: str) -> Stored:
    """The session whose request has these words: a plain one has no name to find it by."""

    def seen() -> list[Keys]:
        return [
            Keys(fields["conversation"], fields["model"], int(fields["epoch"]))
            for fields in _records(redis)
            if words in fields.get("request", "")
        ]

    return Stored(redis, until(seen)[0])


def _records(redis: Redis) -> Iterator[dict[str, str]]:
    names = ("conversation", "model", "epoch", "request")
    for key in redis.scan_iter("rc:*:record", count=1000):
        values = redis.hmget(key, names)
        yield {n: v.decode() for n, v in zip(names, values, strict=True) if v is not None}


@dataclass(frozen=True, slots=True)
class Plant:
    """A session as another implementation may write it: the needed fields, and one of tomorrow."""

    name: str
    chunks: tuple[bytes, ...] = ()
    start: int = 0
    state: str = "running"
    reason: str = ""
    model: str = MODEL
    ping_interval_s: int = -1
    more: Mapping[str, Any] = field(default_factory=dict)


def planted(redis: Redis, plant: Plant) -> Stored:
    """Writes the session; its keys live ten minutes at most."""
    keys = Keys(plant.name, plant.model, now_ms())
    end = plant.start
    for data in plant.chunks:
        end += len(data)
        redis.xadd(keys.stream, {"d": data}, id=f"{end}-0")
    record = {
        "tenant": keys.tenant,
        "conversation": plant.name,
        "name": plant.name,
        "model": plant.model,
        "epoch": keys.epoch,
        "state": plant.state,
        "end": end,
        "created_ms": keys.epoch,
        "last_ms": keys.epoch,
        "ping_interval_s": plant.ping_interval_s,
        "tomorrow": "unknown",
        **plant.more,
    }
    model = encoded(plant.model)
    route = {"epoch": keys.epoch, "current": keys.epoch, "model": model, f"s:{keys.epoch}": model}
    redis.hset(keys.record, mapping=record)
    redis.hset(keys.route, mapping=route)
    redis.sadd(keys.conversations, encoded(plant.name))
    for key in (keys.record, keys.route, keys.conversations, keys.stream):
        redis.expire(key, TTL_S)
    made = Stored(redis, keys)
    if plant.reason:
        made.conclude(plant.state, plant.reason)
    return made


@contextmanager
def heartbeat(redis: Redis, model: Mapping[str, Any]) -> Iterator[None]:
    """A worker that exists as a record alone, with one model, for the block."""
    worker = f"z-{secrets.token_hex(4)}"
    record = {"id": worker, "host": "h", "pid": 1, "started_ms": 1, "build": "b", "models": [model]}
    redis.set(f"rc:worker:{worker}", json.dumps(record), ex=60)
    redis.zadd("rc:workers", {worker: now_ms() + 60_000})
    try:
        yield
    finally:
        redis.delete(f"rc:worker:{worker}")
        redis.zrem("rc:workers", worker)
