"""The oracle finds what it is there to find: each planted defect, and nothing in a clean run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from replay import frames

from .oracle import (
    Allowed,
    Answer,
    Evidence,
    Refusal,
    Segment,
    Session,
    Sighting,
    StopReply,
    judge,
)

ANSWER = Answer("one two three", 4, "stop", (1, 2, 3, 9))
NONE = Allowed()


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    choices = [{"finish_reason": finish, "index": 0, "delta": delta}]
    head = {"id": "a", "created": 1, "model": "m"}
    return frames.data({"choices": choices, **head, **more})


HEAD = chunk({"role": "assistant", "content": None})
WORDS = [chunk({"content": word}) for word in ("one", " two", " three")]
FINISH = chunk({}, "stop")
USAGE = frames.data(
    {"choices": [], "id": "a", "created": 1, "model": "m", "usage": {"completion_tokens": 4}}
)
DONE = b"data: [DONE]\n\n"
LOG = b"".join([HEAD, WORDS[0], frames.PING, *WORDS[1:], FINISH, USAGE, DONE])
HALF = len(HEAD + WORDS[0])


def ended(log: bytes = LOG, **more: object) -> Session:
    """A session whose log is this; the copies of both nodes are alike."""
    session = Session(
        "a", "c", 7, False, "completed", "stop", len(log), 4, ANSWER.tokens, log, ANSWER
    )
    return replace(session, **{"copies": {"api-1": log, "api-2": log}, **more})  # type: ignore[arg-type]


def stopped(reason: str = "client") -> Session:
    log = HEAD + WORDS[0] + f': end {{"state":"stopped","reason":"{reason}"}}\n\n'.encode()
    return ended(log, state="stopped", reason=reason, tokens=(1,))


def read(start: int, data: bytes, how: str = "cut", **more: object) -> Segment:
    segment = Segment("r", "c", "a", 7, 7, start, data, how)
    return replace(segment, **more)  # type: ignore[arg-type]


def seen(state: str = "completed", reason: str = "stop", size: int = len(LOG)) -> Sighting:
    return Sighting("api-1", "c", "a", 7, state, reason, size)


def test_a_clean_run_breaks_nothing() -> None:
    evidence = Evidence(
        segments=[read(0, LOG[:HALF]), read(HALF, LOG[HALF:], "whole")],
        sightings=[seen("running", "", 10), seen(), seen()],
        sessions=[ended()],
    )
    assert judge(evidence, NONE) == []
    assert evidence.bytes_checked == len(LOG)


def test_a_stop_that_was_asked_for_breaks_nothing() -> None:
    evidence = Evidence(
        sessions=[stopped()], stops=[StopReply("c", True, 7, "stopped", stopped().size)]
    )
    assert judge(evidence, Allowed(stopped_names=frozenset("c"))) == []


PLANTED: dict[str, tuple[str, Evidence]] = {
    "a splice": ("I1", Evidence(sessions=[ended()], segments=[read(0, LOG[:HALF] + b"x" * 9)])),
    "a gap": ("I1", Evidence(sessions=[ended()], segments=[read(0, LOG[:5] + LOG[6:HALF])])),
    "a repeat": ("I1", Evidence(sessions=[ended()], segments=[read(5, LOG[4:HALF])])),
    "a hole between two responses": (
        "I1",
        Evidence(sessions=[ended()], segments=[read(0, LOG[:5]), read(6, LOG[6:9])]),
    ),
    "a clean end before the end": (
        "I1",
        Evidence(sessions=[ended()], segments=[read(0, LOG[:HALF], "whole")]),
    ),
    "bytes that were taken back": (
        "I4",
        Evidence(sessions=[ended()], segments=[read(0, LOG + b"more")]),
    ),
    "a session that is gone": ("I4", Evidence(segments=[read(0, LOG)])),
    "another epoch than asked for": (
        "I3",
        Evidence(sessions=[ended()], segments=[read(0, LOG[:9], asked_epoch=6)]),
    ),
    "nodes that disagree": (
        "I2",
        Evidence(sessions=[ended(copies={"api-1": LOG, "api-2": LOG[:-1]})]),
    ),
    "two ends": ("I2", Evidence(sessions=[ended(LOG + DONE)])),
    "no end": ("I2", Evidence(sessions=[ended(LOG.removesuffix(DONE))])),
    "a session that never ended": ("I2", Evidence(sessions=[ended(HEAD, state="running")])),
    "an end that changed": ("I2", Evidence(sightings=[seen(), seen("stopped", "client")])),
    "an end that nothing explains": ("I2", Evidence(sessions=[stopped("replaced")])),
    "an end comment beside [DONE]": (
        "I2",
        Evidence(sessions=[ended(LOG + b': end {"state":"completed","reason":"stop"}\n\n')]),
    ),
    "a failure that looks complete": (
        "I2",
        Evidence(sessions=[ended(state="failed", reason="engine")]),
    ),
    "a word twice": ("I1", Evidence(sessions=[ended(LOG.replace(WORDS[1], 2 * WORDS[1]))])),
    "a word missing": ("I1", Evidence(sessions=[ended(LOG.replace(WORDS[1], b""))])),
    "a token sampled twice": ("I1", Evidence(sessions=[ended(tokens=(1, 2, 2, 3, 9))])),
    "a token stored twice": ("I1", Evidence(sessions=[ended(tokens=(), token_count=5)])),
    "a token counted twice": (
        "I1",
        Evidence(sessions=[ended(LOG.replace(b'tokens":4', b'tokens":5'))]),
    ),
    "no usage": ("I1", Evidence(sessions=[ended(LOG.replace(USAGE, b""))])),
    "two roles": ("I1", Evidence(sessions=[ended(LOG.replace(HEAD, 2 * HEAD))])),
    "frames of another answer": (
        "I1",
        Evidence(sessions=[ended(LOG.replace(WORDS[2], WORDS[2].replace(b'"a"', b'"b"')))]),
    ),
    "half a frame": ("I1", Evidence(sessions=[ended(LOG[:-1])])),
    "bytes that are no frame": ("I1", Evidence(sessions=[ended(b"xx\n\n" + LOG)])),
    "a size that is not the log's": ("I1", Evidence(sessions=[ended(size=3)])),
    "a log that shrank": (
        "I4",
        Evidence(sightings=[seen("running", "", 9), seen("running", "", 8)]),
    ),
    "a refusal without a cause": (
        "I4",
        Evidence(sessions=[ended()], refusals=[Refusal("r", "c", 7, 9, 416)]),
    ),
    "a byte after the stop": (
        "I5",
        Evidence(sessions=[ended()], stops=[StopReply("c", True, 7, "completed", 9)]),
    ),
    "one intent that became two": (
        "I2",
        Evidence(sessions=[ended(key="k"), ended(key="k", id="b", name="d")]),
    ),
    "a leak": ("I7", Evidence(leaks=["a key has no TTL"])),
    "a reader that hangs": ("I8", Evidence(hung=["r"])),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_defect_is_found(planted: str) -> None:
    invariant, evidence = PLANTED[planted]
    found = judge(evidence, NONE)
    assert invariant in {line[:2] for line in found}, found


LOSING = Allowed(loses_data=True)
AGAIN = LOG.replace(b'"completion_tokens":4', b'"completion_tokens":4,"timings":{"ms":71}')
TOLD = Refusal("r", "c", 7, len(LOG) + 4, 416)
EXCUSED: dict[str, tuple[Allowed, Evidence]] = {
    "lost bytes, where the reader was told": (
        LOSING,
        Evidence(sessions=[ended()], segments=[read(0, LOG + b"more")], refusals=[TOLD]),
    ),
    "bytes in whose place a stop's end stands": (
        replace(LOSING, stopped_names=frozenset("c")),
        Evidence(sessions=[stopped()], segments=[read(0, LOG[: HALF + 70])], refusals=[TOLD]),
    ),
    "what the client of a plain session had, who is gone": (
        LOSING,
        Evidence(
            sessions=[replace(stopped("disconnected"), is_plain=True)],
            segments=[read(0, LOG[: HALF + 70], "left")],
        ),
    ),
    "an end that was reached before Redis forgot it": (
        LOSING,
        Evidence(
            sessions=[ended()], segments=[read(0, AGAIN[:HALF]), read(HALF, AGAIN[HALF:], "whole")]
        ),
    ),
    "a lost session": (LOSING, Evidence(segments=[read(0, LOG)])),
    "what was evicted": (
        Allowed(evicted_names=frozenset("c")),
        Evidence(sessions=[ended()], refusals=[Refusal("r", "c", 7, 9, 410)]),
    ),
}


@pytest.mark.parametrize("excused", EXCUSED)
def test_what_a_fault_explains_is_no_defect(excused: str) -> None:
    allowed, evidence = EXCUSED[excused]
    assert judge(evidence, allowed) == []
    assert judge(evidence, NONE)


SPLICES: list[Callable[[], Segment]] = [
    lambda: read(0, LOG + b"more"),
    lambda: read(0, LOG[:HALF] + b"other words"),
    lambda: read(0, LOG.replace(WORDS[1], b""), "whole"),
    lambda: read(0, AGAIN),
]


def test_not_even_a_reader_who_is_told_may_have_a_splice() -> None:
    spliced = read(0, LOG.replace(WORDS[1], b"")[: HALF + 300])
    evidence = Evidence(sessions=[stopped()], segments=[spliced], refusals=[TOLD])
    assert judge(evidence, replace(LOSING, stopped_names=frozenset("c")))


@pytest.mark.parametrize("splice", SPLICES)
def test_even_a_redis_that_forgets_excuses_no_splice(splice: Callable[[], Segment]) -> None:
    """A reader that has other bytes, or more, and was told nothing."""
    assert judge(Evidence(sessions=[ended()], segments=[splice()]), LOSING)
