"""Workers die in the middle of answers in every dialect: whoever reads them sees a pause.

The vendors' own SDKs ask at one node, the logs are read at the other; then all workers are killed
at once. What was read and parsed is compared with what workers that live make of the same requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.protocol.stored import Stored, stored
from tests.protocol.wire import WAIT_S, Exchange, Node, events, frames, target, until

from .breakable import Breakable

RATE = 40
"""Tokens per second of the answers that lose their workers."""

BEFORE = 20
"""So many tokens each of them has then, at least: seconds before its end."""

TEXT = "Grüße, 日本 👩‍🚀! " * 12
THOUGHT = f"<think>{TEXT}</think>Four."
CALLED = [{"name": "add", "arguments": {"a": TEXT}}, {"name": "add", "arguments": {}}]
CALLS = f"<think>Hm.</think>{json.dumps({'tool_calls': CALLED}, ensure_ascii=False)}"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"name": "add", "parameters": SCHEMA}
STARTING_AFTER = 2
"""The number of the event behind which a response in the background is followed."""

AGAIN = " again"
"""What the names of the uninterrupted ones end with."""

OURS = {"cache_prompt": False, "seed": 1}
"""What a cache holds of a prompt is told in the usage, and a seed in native frames."""

USAGE_TOO = {"include_usage": True}

Headers = dict[str, str]


def saying(text: str) -> str:
    """Words that are answered with this text."""
    return f"[[say]]{text}[[/say]] [[rate={RATE}]]"


def at_once(asked: dict[str, Any]) -> dict[str, Any]:
    """The same request, of as many tokens, for the same answer without its pace."""
    found: dict[str, Any] = json.loads(json.dumps(asked).replace(f"rate={RATE}", "rate=00"))
    return found


def of_openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)


def chats(url: str, headers: Headers, asked: dict[str, Any]) -> Any:
    """What each choice says, and how many probabilities were told of it."""
    said: dict[int, list[Any]] = {}
    with of_openai(url) as client:
        for chunk in client.chat.completions.create(
            model="scripted",
            stream=True,
            stream_options=USAGE_TOO,
            extra_headers=headers,
            extra_body=OURS,
            **asked,
        ):
            for choice in chunk.choices:
                told = choice.logprobs.content if choice.logprobs else None
                delta = choice.delta.model_dump(exclude_none=True)
                said.setdefault(choice.index, []).append((delta, len(told or ())))
    return said


def completions(url: str, headers: Headers, asked: dict[str, Any]) -> Any:
    """What each choice says."""
    said: dict[int, str] = {}
    with of_openai(url) as client:
        for chunk in client.completions.create(
            model="scripted",
            max_tokens=4096,
            stream=True,
            stream_options=USAGE_TOO,
            extra_headers=headers,
            extra_body=OURS,
            **asked,
        ):
            for choice in chunk.choices:
                said[choice.index] = said.get(choice.index, "") + choice.text
    return said


def response(url: str, headers: Headers, asked: dict[str, Any]) -> Any:
    """The items and the usage, as the SDK has put them together."""
    with (
        of_openai(url) as client,
        client.responses.stream(
            model="scripted", extra_headers=headers, extra_body=OURS, **asked
        ) as stream,
    ):
        numbers = [event.sequence_number for event in stream]
        final = stream.get_final_response()
    assert numbers == [*range(len(numbers))]
    return [item.model_dump(exclude={"id", "call_id"}) for item in final.output], final.usage


def message(url: str, headers: Headers, asked: dict[str, Any]) -> Any:
    """The blocks and the usage, as the SDK has put them together."""
    with (
        anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client,
        client.messages.stream(
            model="scripted", max_tokens=4096, extra_headers=headers, extra_body=OURS, **asked
        ) as stream,
    ):
        final = stream.get_final_message()
    blocks = [block.model_dump(exclude={"id"}) for block in final.content]
    return blocks, final.stop_reason, final.usage


def native(url: str, headers: Headers, asked: dict[str, Any]) -> Any:
    """What is said; the vendor has no SDK."""
    body = {**asked, **OURS, "stream": True}
    answer = httpx.post(f"{url}/completion", headers=headers, json=body, timeout=WAIT_S)
    return "".join(event["content"] for event in events(answer.content))


@dataclass(frozen=True)
class Case:
    """Who asks for what."""

    read: Callable[[str, Headers, dict[str, Any]], Any]
    asked: dict[str, Any]


CASES = {
    "chats": Case(
        chats,
        {"messages": [{"role": "user", "content": saying(THOUGHT)}], "n": 2, "logprobs": True},
    ),
    "completions": Case(
        completions, {"prompt": [saying(TEXT), saying(TEXT[::-1])], "n": 2, "logprobs": 1}
    ),
    "thinking message": Case(message, {"messages": [{"role": "user", "content": saying(THOUGHT)}]}),
    "message": Case(
        message,
        {
            "messages": [{"role": "user", "content": saying(CALLS)}],
            "tools": [{"name": "add", "input_schema": SCHEMA}],
        },
    ),
    "response": Case(
        response,
        {"input": saying(CALLS), "tools": [{"type": "function", "strict": True, **FUNCTION}]},
    ),
    "native": Case(native, {"prompt": saying(TEXT), "n_probs": 1}),
}
BACKGROUND = {"input": saying(THOUGHT), **OURS}
SEVERAL = ("chats", "completions")
"""Those of several choices."""

ONE = [case for case in CASES if case not in SEVERAL]


@dataclass(frozen=True)
class Pair:
    """What was read of an answer, and what is read of an uninterrupted one."""

    read: Any
    whole: Any


@dataclass(frozen=True)
class Outcome:
    """What came of the answers whose workers died."""

    logs: dict[str, Pair]
    parsed: dict[str, Pair]
    followed: Pair
    response: dict[str, Any]
    sessions: list[Stored]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """All answers are begun, all workers killed, all answers read to their ends."""
    folder = tmp_path_factory.mktemp("dialects")
    # Who did not read meanwhile would be cut, as one that is too slow.
    with (
        Breakable(folder, REPLAY_SLOTS="16").running() as cluster,
        ThreadPoolExecutor(2 * len(CASES) + 1) as pool,
    ):
        yield survived(cluster, pool)


def survived(cluster: Breakable, pool: ThreadPoolExecutor) -> Outcome:
    node, other = cluster.nodes
    answers = {case: pool.submit(parsed, node, case) for case in CASES}
    in_background = begun_in_background(node, BACKGROUND)
    names = (*CASES, f"~{in_background}")
    sessions = [node.reaches(name, "running") and stored(cluster.db, name) for name in names]
    logs = {case: pool.submit(log_of, other, case) for case in CASES}
    until(lambda: min(map(tokens_of, sessions)) >= BEFORE)
    follower = following(other, in_background)
    follower.first(1)
    rest = pool.submit(rest_of, follower)
    for worker in cluster.worker_pids:
        cluster.kill(worker)
    survivors = {case: answer.result() for case, answer in answers.items()}
    whole = begun_in_background(node, at_once(BACKGROUND))
    return Outcome(
        parsed={case: Pair(read, parsed(node, case, AGAIN)) for case, read in survivors.items()},
        logs={case: Pair(log.result(), log_of(node, case + AGAIN)) for case, log in logs.items()},
        followed=Pair(rest.result(), rest_of(following(node, whole))),
        response=other.http.get(f"/v1/responses/{in_background}").json(),
        sessions=sessions,
    )


def parsed(node: Node, case: str, again: str = "") -> Any:
    """What the case's client makes of an answer at its pace, or again at once."""
    read, asked = CASES[case].read, CASES[case].asked
    headers = {"X-Conversation-Id": case + again}
    return read(node.url, headers, at_once(asked) if again else asked)


def log_of(node: Node, name: str) -> bytes:
    """The session's bytes from its first one on."""
    return rest_of(node.reading(name))


def rest_of(reader: Exchange) -> bytes:
    """All that is read, to an end that must be clean."""
    with reader:
        return reader.whole()


def begun_in_background(node: Node, asked: dict[str, Any]) -> str:
    """The id of a response that nobody waits for."""
    begun: str = node.http.post("/v1/responses", json={**asked, "background": True}).json()["id"]
    return begun


def following(node: Node, response_id: str) -> Exchange:
    """The response's events behind one that was read already."""
    path = f"/v1/responses/{response_id}"
    return node.exchange("GET", target(path, stream="true", starting_after=STARTING_AFTER))


def tokens_of(session: Stored) -> int:
    return int(session.fields["token_count"])


ID = re.compile(rb'"((?:[a-z]+[-_])?[A-Za-z0-9]{32})"')
TIMES = re.compile(rb'"timings":\{[^{}]*\}|"(?:created|created_at|completed_at)":\d+|rate=\d\d')
KEEP_ALIVE = re.compile(rb"^:.*\n\n", re.MULTILINE)
USAGE = re.compile(rb'"usage":\{[^{}]*(?:\{[^{}]*\})?\},')
INDEX = re.compile(rb'"index":(\d+)')


def timeless(log: bytes) -> bytes:
    """A log without what two runs of one request differ in: times, what was said in silence, and
    ids but for their order."""
    ids: dict[bytes, int] = {}
    numbered = ID.sub(lambda found: b'"id %d"' % ids.setdefault(found[1], len(ids)), log)
    return TIMES.sub(b"", KEEP_ALIVE.sub(b"", numbered))


def by_choice(log: bytes) -> list[bytes]:
    """The frames of each choice. How they interleave, and who has the usage, is chance."""

    def choice(frame: bytes) -> int:
        index = INDEX.search(frame)
        return int(index[1]) if index else -1

    return sorted(frames(USAGE.sub(b"", timeless(log))), key=choice)


def usages(log: bytes) -> list[dict[str, Any]]:
    return [event["usage"] for event in events(log) if event.get("usage")]


@pytest.mark.guarantee("T3")
@pytest.mark.clause("REC-5")
def test_every_session_was_taken_over_and_completed(outcome: Outcome) -> None:
    assert min(session.takeovers for session in outcome.sessions) >= 1
    assert {session.fields["state"] for session in outcome.sessions} == {"completed"}


@pytest.mark.guarantee("T3")
@pytest.mark.clause("REC-5")
@pytest.mark.parametrize("case", ONE)
def test_a_log_is_what_it_would_have_been(outcome: Outcome, case: str) -> None:
    assert timeless(outcome.logs[case].read) == timeless(outcome.logs[case].whole)


@pytest.mark.guarantee("T3")
@pytest.mark.clause("CHOICE-3")
@pytest.mark.parametrize("case", SEVERAL)
def test_each_of_several_choices_is_what_it_would_have_been(outcome: Outcome, case: str) -> None:
    log = outcome.logs[case]
    assert by_choice(log.read) == by_choice(log.whole)
    assert usages(log.read) == usages(log.whole) != []


@pytest.mark.guarantee("T3")
@pytest.mark.clause("RESP-4")
def test_a_response_in_the_background_is_followed_over_a_death(outcome: Outcome) -> None:
    assert timeless(outcome.followed.read) == timeless(outcome.followed.whole)
    told = [
        json.loads(frame.partition(b"data: ")[2])
        for frame in frames(outcome.followed.read)
        if not frame.startswith(b":")
    ]
    numbers = [event["sequence_number"] for event in told]
    assert numbers == [*range(STARTING_AFTER + 1, STARTING_AFTER + 1 + len(numbers))]
    final = told[-1]["response"]
    assert final["status"] == "completed" and final.items() <= outcome.response.items()


@pytest.mark.guarantee("T3")
@pytest.mark.clause("REC-5")
@pytest.mark.parametrize("case", CASES)
def test_who_reads_it_notices_nothing(outcome: Outcome, case: str) -> None:
    assert outcome.parsed[case].read == outcome.parsed[case].whole
