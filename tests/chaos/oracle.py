"""The judge: what clients saw and what the log finally holds, against I1 to I8. Pure.

The canonical bytes of an epoch are what its log holds at the end, on every node; they are right
where they are whole frames that say the answer that was known before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .told import DONE, Told, begins, completes, parse_log

COMPLETED, STOPPED, FAILED, LOST = "completed", "stopped", "failed", "lost"
NOT_BEGUN = ((FAILED, "queue"), (FAILED, "limit"))
FINAL = (COMPLETED, STOPPED, FAILED, LOST)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an uninterrupted run makes: its text, how many tokens, why it ends, and which tokens.

    A real model's ``tokens`` are not known, and empty.
    """

    text: str
    token_count: int
    reason: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """What one response brought; ``session`` is the completion's id.

    ``ended``: "whole" after a clean end, else how it was cut.
    """

    reader: str
    name: str
    session: str
    asked_epoch: int | None
    epoch: int
    start: int
    data: bytes
    ended: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reader was told that what it asks for is not to be had."""

    reader: str
    name: str
    epoch: int | None
    offset: int
    status: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A session as a node told it, in the order of time."""

    node: str
    name: str
    session: str
    epoch: int
    state: str
    reason: str
    size: int


@dataclass(frozen=True, slots=True)
class StopReply:
    """The answer to a DELETE; ``epoch`` is 0 where there was nothing."""

    name: str
    keep: bool
    epoch: int = 0
    state: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """One session as Redis and the nodes hold it at the end. ``copies`` are the log by node.

    ``id`` is the completion's; two conversations may have the same epoch. ``tokens`` are empty
    where the log has been compacted; ``token_count`` stays.
    """

    id: str
    name: str
    epoch: int
    is_plain: bool
    state: str
    reason: str
    size: int
    token_count: int
    tokens: tuple[int, ...]
    log: bytes
    answer: Answer
    copies: Mapping[str, bytes] = field(default_factory=dict)
    attempts: int = 1
    key: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the plan's faults excuse, and what its clients asked for."""

    loses_data: bool = False
    ends: frozenset[tuple[str, str]] = frozenset()
    stopped_names: frozenset[str] = frozenset()
    evicted_names: frozenset[str] = frozenset()


@dataclass(slots=True)
class Evidence:
    """All that was seen in one run. ``hung`` names whoever did not end in time."""

    segments: list[Segment] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    stops: list[StopReply] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def bytes_checked(self) -> int:
        """How many bytes readers got."""
        return sum(len(segment.data) for segment in self.segments)


def judge(evidence: Evidence, allowed: Allowed) -> list[str]:
    """Every broken invariant, one line each; empty where all held."""
    by_id = {session.id: session for session in evidence.sessions}
    by_epoch = {(session.name, session.epoch): session for session in evidence.sessions}
    last = {session.name: session.epoch for session in sorted(evidence.sessions, key=_epoch)}
    told = {(one.reader, one.name) for one in evidence.refusals}
    return [
        *_each(evidence.sessions, lambda one: _of_log(one)),
        *_each(evidence.sessions, lambda one: _of_end(one, allowed, last)),
        *_of_readers(evidence.segments, by_id, allowed, told),
        *_of_intents(evidence.sessions, allowed),
        *_each(evidence.refusals, lambda one: _of_refusal(one, allowed, evidence.sessions)),
        *_of_sightings(evidence.sightings, by_id, allowed),
        *_each(evidence.stops, lambda one: _of_stop(one, by_epoch, allowed)),
        *(f"I7 {leak}" for leak in evidence.leaks),
        *(f"I8 {who} neither ended nor was told" for who in evidence.hung),
    ]


def _epoch(session: Session) -> int:
    return session.epoch


def _each(items: Iterable[Any], faults_of: Any) -> Iterator[str]:
    for item in items:
        yield from faults_of(item)


def _of_log(session: Session) -> Iterator[str]:
    """The log by itself: whole frames, the known answer, each token once, one end (I1, I2)."""
    who = f"{session.name} epoch {session.epoch}"
    if session.size != len(session.log):
        yield f"I1 {who}: the record says {session.size} bytes, the log has {len(session.log)}"
    for node, copy in session.copies.items():
        if copy != session.log:
            at = first_difference(copy, session.log)
            yield f"I2 {who}: {node} tells another log, from byte {at} on"
    try:
        told = parse_log(session.log)
    except ValueError as error:
        yield f"I1 {who}: {error}"
        return
    yield from (f"I1 {who}: {fault}" for fault in told.faults)
    yield from _of_text(session, told, who)
    yield from (f"I2 {who}: {fault}" for fault in _of_closing(session, told))


def _of_text(session: Session, told: Told, who: str) -> Iterator[str]:
    answer = session.answer
    if answer.tokens and session.tokens != answer.tokens[: len(session.tokens)]:
        at = first_difference(session.tokens, answer.tokens)
        yield f"I1 {who}: other tokens than the answer's, from token {at} on"
    if not answer.text.startswith(told.text):
        at = first_difference(told.text, answer.text)
        yield f"I1 {who}: another text, from character {at} on: {told.text[at - 20 : at + 20]!r}"
    if session.state != COMPLETED:
        return
    if told.text != answer.text:
        yield f"I1 {who}: completed with {len(told.text)} of {len(answer.text)} characters"
    if session.reason != answer.reason or told.finishes != [answer.reason]:
        yield f"I2 {who}: ended by {session.reason}, {told.finishes}, not by {answer.reason}"
    counted = [usage["completion_tokens"] for usage in told.usage]
    if session.token_count != answer.token_count or counted != [answer.token_count]:
        yield (
            f"I1 {who}: usage counts {counted}, {session.token_count} are stored, "
            f"{answer.token_count} were sampled"
        )


def _of_closing(session: Session, told: Told) -> Iterator[str]:
    """A completed log ends with one [DONE], any other with one end comment and none (END-2)."""
    if session.state not in FINAL:
        yield f"it has not ended: {session.state}"
        return
    end = [{"state": session.state, "reason": session.reason}]
    wanted = (1, []) if session.state == COMPLETED else (0, end)
    if (told.dones, told.ends) != wanted:
        yield f"{session.state}({session.reason}) with {told.dones} [DONE] and ends {told.ends}"
    if not told.last.startswith(DONE if session.state == COMPLETED else b": end "):
        yield f"its last frame is {told.last!r}"
    if told.errors != (session.state in (FAILED, LOST)):
        yield f"{session.state} with {told.errors} error events"


def _of_end(session: Session, allowed: Allowed, last: Mapping[str, int]) -> Iterator[str]:
    """Whether anything in the plan explains this end."""
    end = (session.state, session.reason)
    explained = {
        (COMPLETED, "stop"): True,
        (COMPLETED, "length"): True,
        (STOPPED, "client"): session.name in allowed.stopped_names,
        (STOPPED, "replaced"): last[session.name] > session.epoch,
        (STOPPED, "disconnected"): session.is_plain,
    }
    if not explained.get(end, end in allowed.ends) and session.state in FINAL:
        yield f"I2 {session.name} epoch {session.epoch}: nothing explains {end}"


def _of_readers(
    segments: Sequence[Segment],
    sessions: Mapping[str, Session],
    allowed: Allowed,
    told: set[tuple[str, str]],
) -> Iterator[str]:
    """What each reader got of each session, all its responses together."""
    chains: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        chains[segment.reader, segment.session].append(segment)
    for (_, session), chain in chains.items():
        yield from _of_chain(chain, sessions.get(session), allowed, told)


def _of_chain(
    chain: Sequence[Segment],
    session: Session | None,
    allowed: Allowed,
    told: set[tuple[str, str]],
) -> Iterator[str]:
    """Exactness (I1), no mix (I3), and nothing taken back (I4)."""
    first, last = chain[0], chain[-1]
    who = f"{first.reader} of {first.name} epoch {first.epoch} from {first.start}"
    for segment in chain:
        if segment.asked_epoch not in (None, segment.epoch):
            yield f"I3 {who}: it had asked for epoch {segment.asked_epoch}"
    for before, after in pairwise(chain):
        if after.start != before.start + len(before.data):
            yield f"I1 {who}: a hole in its own chain at {after.start}"
            return
    data = b"".join(segment.data for segment in chain)
    if session is None:
        # What was evicted is kept for 30 s more, which may be over when it is looked at.
        if data and not (allowed.loses_data or first.name in allowed.evicted_names):
            yield f"I4 {who}: no such session is left"
    elif fault := _difference(data, first.start, last.ended == "whole", session):
        own = session.log[: first.start] + data
        # A plain session's client cannot come back, and so hears nothing.
        hears = session.is_plain or (first.reader, first.name) in told
        is_told = hears and begins(own, session.answer.text)
        is_over = last.ended == "whole" and completes(own, session.answer.text)
        if not (allowed.loses_data and (is_told or is_over)):
            yield fault.replace("WHO", who)


def _difference(data: bytes, start: int, is_ended: bool, session: Session) -> str:
    """How a reader's bytes from ``start`` on differ from the log's; "" where they do not."""
    stop = start + len(data)
    stored = session.log[start:stop]
    if data != stored:
        at = first_difference(data, stored)
        if at == len(stored):
            return f"I4 WHO: it has more than the log, from {start + at} on"
        return f"I1 WHO: other bytes, from {start + at} on"
    return (
        f"I1 WHO: a clean end at {stop} of {len(session.log)}"
        if (is_ended and stop != len(session.log))
        else ""
    )


def _of_intents(sessions: Sequence[Session], allowed: Allowed) -> Iterator[str]:
    """One key is one generation; what ended before it began leaves its key free."""
    begun = Counter(
        session.key for session in sessions if (session.state, session.reason) not in NOT_BEGUN
    )
    for key, times in begun.items():
        if key and times > 1 and not allowed.loses_data:
            yield f"I2 the key {key} opened {times} sessions"


def _of_refusal(refusal: Refusal, allowed: Allowed, sessions: Sequence[Session]) -> Iterator[str]:
    """Who is refused asked for what was evicted or lost, or forgot to say which epoch it means."""
    epochs = sum(session.name == refusal.name for session in sessions)
    is_gone = refusal.name in allowed.evicted_names or not epochs
    is_mixed_up = refusal.epoch is None and epochs > 1
    excused = {404: is_gone, 410: is_gone, 416: is_mixed_up, 400: is_gone}
    if not (allowed.loses_data or excused.get(refusal.status, False)):
        yield (
            f"I4 {refusal.reader} of {refusal.name} epoch {refusal.epoch} at {refusal.offset}: "
            f"refused with {refusal.status} {refusal.message}"
        )


def _of_sightings(
    sightings: Sequence[Sighting], sessions: Mapping[str, Session], allowed: Allowed
) -> Iterator[str]:
    """All nodes agree on an end, and it never changes (I2); a log never shrinks (I4)."""
    if allowed.loses_data:
        return
    ends: dict[str, Sighting] = {}
    sizes: dict[str, int] = {}
    for seen in sightings:
        who = f"{seen.name} epoch {seen.epoch}"
        final = ends.get(seen.session)
        if final and (final.state, final.reason, final.size) != (
            seen.state,
            seen.reason,
            seen.size,
        ):
            yield f"I2 {who}: {final.state}({final.reason}), then {seen.state}({seen.reason})"
        if seen.state in FINAL:
            ends[seen.session] = seen
        if seen.size < sizes.get(seen.session, 0):
            yield f"I4 {who}: {sizes[seen.session]} bytes, then {seen.size}"
        sizes[seen.session] = seen.size
    for one, seen in ends.items():
        session = sessions.get(one)
        if session and (session.state, session.reason) != (seen.state, seen.reason):
            yield f"I2 {seen.name} epoch {seen.epoch}: {seen.node} said {seen.state}({seen.reason})"


def _of_stop(
    stop: StopReply, sessions: Mapping[tuple[str, int], Session], allowed: Allowed
) -> Iterator[str]:
    """What a DELETE said of the end is so, and nothing was appended after it (I5)."""
    session = sessions.get((stop.name, stop.epoch))
    if session is None or allowed.loses_data:
        return
    if (session.state, session.size) != (stop.state, stop.size):
        yield (
            f"I5 {stop.name} epoch {stop.epoch}: the stop told {stop.state} at {stop.size}, "
            f"it is {session.state} at {session.size}"
        )


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The index from which two sequences differ."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
