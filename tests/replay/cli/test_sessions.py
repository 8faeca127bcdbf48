"""Sessions listed, shown and stopped, against a real Redis; and the text stays where it is."""

from __future__ import annotations

import json

import pytest
from redis import Redis as SyncRedis

from replay import keys
from replay.errors import SessionNotFound
from replay.identity import SessionRef
from replay.queue import job_id
from replay.records import State

from .command_line import NOWHERE, SECRET, answered, on, queued, read_json, replayctl


def test_an_empty_redis_lists_nothing_and_is_no_error(redis_url: str) -> None:
    result = replayctl(redis_url, "sessions", "ls")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no sessions\n")
    assert read_json(redis_url, "sessions", "ls") == []


def test_sessions_are_listed_with_their_ids_shortened(redis_url: str) -> None:
    answered(redis_url, "alice@example.com")
    titles, row = replayctl(redis_url, "sessions", "ls").stdout.splitlines()
    assert titles.split()[:5] == ["TENANT", "CONVERSATION", "MODEL", "EPOCH", "STATE"]
    cells = row.split()
    assert cells[:3] == ["default", "alice@ex…", "m"]
    assert (cells[4], cells[-2:]) == ("completed(stop)", ["w1", "1"])
    assert "alice@example.com" in replayctl(redis_url, "sessions", "ls", "--full").stdout


def test_json_lists_ids_whole_as_one_array(redis_url: str) -> None:
    body = answered(redis_url, "alice@example.com 🧪")
    (listed,) = read_json(redis_url, "sessions", "ls")
    assert listed["conversation"] == "alice@example.com 🧪"
    assert (listed["state"], listed["reason"], listed["end"]) == ("completed", "stop", len(body))


def test_filters_narrow_the_list(redis_url: str) -> None:
    answered(redis_url, "ended")
    answered(redis_url, "running", live=True)
    queued(redis_url, "waiting")
    answered(redis_url, "theirs", tenant="other")

    def listed(*options: str) -> set[str]:
        return {found["conversation"] for found in read_json(redis_url, "sessions", "ls", *options)}

    assert listed() == {"ended", "running", "waiting", "theirs"}
    assert listed("--state", "completed") == {"ended", "theirs"}
    assert listed("--state", "queued", "--state", "running") == {"waiting", "running"}
    assert listed("--tenant", "other") == {"theirs"}
    assert listed("--model", "m", "--tenant", "default") == {"ended", "running", "waiting"}
    assert listed("--model", "none") == set()


def test_a_limit_says_how_many_there_are(redis_url: str) -> None:
    for name in ("a", "b", "c"):
        answered(redis_url, name)
    result = replayctl(redis_url, "sessions", "ls", "--limit", "2", "--json")
    assert len(json.loads(result.stdout)) == 2
    assert result.stderr == "2 of 3 shown; --limit shows more\n"


@pytest.mark.parametrize("verb", [["ls"], ["ls", "--full"], ["show", "c"], ["stop", "c"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_neither_answer_nor_request_is_printed_unasked(
    redis_url: str, verb: list[str], form: list[str]
) -> None:
    answered(redis_url)
    result = replayctl(redis_url, "sessions", *verb, *form)
    assert result.exit_code == 0
    assert "completed" in result.stdout
    assert SECRET not in result.output


def test_show_tells_the_record_and_the_logs_extent(redis_url: str) -> None:
    body = answered(redis_url)
    shown = read_json(redis_url, "sessions", "show", "c")
    assert (shown["end"], shown["entries"], shown["first_offset"]) == (len(body), 3, 0)
    assert (shown["prompt_token_count"], shown["dialect"]) == (3, "openai.chat")
    assert shown["expires_ms"] - shown["ended_ms"] == 7_200_000
    lines = replayctl(redis_url, "sessions", "show", "c").stdout.splitlines()
    told = {line[:15].strip(): line[15:].strip() for line in lines}
    assert (told["state"], told["size"]) == ("completed(stop)", f"{len(body)} bytes")
    assert told["prompt"] == "3 tokens"


def test_text_and_request_are_shown_when_asked_for(redis_url: str) -> None:
    answered(redis_url)
    assert (
        f"text:\nHello {SECRET}\n" in replayctl(redis_url, "sessions", "show", "c", "--text").stdout
    )
    assert (
        f'"content": "{SECRET}"'
        in replayctl(redis_url, "sessions", "show", "c", "--request").stdout
    )
    shown = read_json(redis_url, "sessions", "show", "c", "--text", "--request")
    assert shown["text"] == f"Hello {SECRET}"
    assert shown["request"]["messages"][0]["content"] == SECRET


def test_the_text_of_a_running_session_is_what_is_stored(redis_url: str) -> None:
    answered(redis_url, live=True)
    shown = read_json(redis_url, "sessions", "show", "c", "--text")
    assert (shown["state"], shown["text"]) == ("running", f"Hello {SECRET}")


def test_the_text_of_an_unknown_dialect_is_refused(redis_url: str) -> None:
    answered(redis_url)
    with SyncRedis.from_url(redis_url) as redis:
        (record,) = redis.scan_iter("*:record")
        redis.hset(record, "dialect", "smoke.signals")
    result = replayctl(redis_url, "sessions", "show", "c", "--text")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "smoke.signals" in result.stderr


def test_a_queued_session_shows_its_place(redis_url: str) -> None:
    queued(redis_url)
    shown = read_json(redis_url, "sessions", "show", "c")
    assert (shown["state"], shown["queue_rank"]) == ("queued", None)
    assert "has no job" in replayctl(redis_url, "sessions", "show", "c").stdout
    ref = SessionRef("default", "c", "m", shown["epoch"])
    with SyncRedis.from_url(redis_url) as redis:
        redis.zadd(keys.queue("m"), {"other": 1, job_id(ref, 1): 2})
        redis.expire(keys.queue("m"), 60)
    assert "1 before it" in replayctl(redis_url, "sessions", "show", "c").stdout
    assert read_json(redis_url, "sessions", "show", "c")["queue_rank"] == 1


def test_a_queue_plane_that_is_away_costs_only_the_place(redis_url: str) -> None:
    queued(redis_url)
    result = replayctl(redis_url, "sessions", "show", "c", "--queue-redis-url", NOWHERE)
    assert result.exit_code == 0
    assert "unknown, the queue plane does not answer" in result.stdout


def test_an_earlier_session_is_shown_by_its_epoch(redis_url: str) -> None:
    answered(redis_url)
    earlier = read_json(redis_url, "sessions", "show", "c")["epoch"]
    queued(redis_url)
    assert read_json(redis_url, "sessions", "show", "c")["state"] == "queued"
    shown = read_json(redis_url, "sessions", "show", "c", "--epoch", str(earlier))
    assert (shown["epoch"], shown["state"]) == (earlier, "completed")


@pytest.mark.parametrize("verb", ["show", "tail", "stop"])
def test_a_session_that_is_not_there_is_one_line_and_code_1(redis_url: str, verb: str) -> None:
    answered(redis_url, tenant="other")
    result = replayctl(redis_url, "sessions", verb, "c")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "replayctl: no session 'c'\n"


def test_stop_keeps_what_was_generated(redis_url: str) -> None:
    body = answered(redis_url, live=True)
    result = replayctl(redis_url, "sessions", "stop", "c")
    assert result.exit_code == 0
    assert result.stdout.startswith("stopped(operator): epoch ")
    assert result.stdout.endswith("kept until its retention ends\n")
    record = on(redis_url, lambda log: log.resolve("default", "c", None))
    assert (record.state, record.reason) == (State.STOPPED, "operator")
    assert record.end > len(body)


def test_stopping_again_changes_nothing(redis_url: str) -> None:
    answered(redis_url, live=True)
    first = read_json(redis_url, "sessions", "stop", "c")
    again = read_json(redis_url, "sessions", "stop", "c")
    assert (first["stopped"], again["stopped"]) == (True, False)
    assert {**first, "stopped": False} == again


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_evicting_asks_and_without_a_yes_nothing_happens(redis_url: str, answer: str) -> None:
    answered(redis_url, live=True)
    result = replayctl(redis_url, "sessions", "stop", "c", "--evict", answer=answer)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Evict c (running, epoch" in result.stderr
    assert "nothing was stopped" in result.stderr
    assert read_json(redis_url, "sessions", "show", "c")["state"] == "running"


@pytest.mark.parametrize(("options", "answer"), [(["--yes"], None), ([], "y\n")])
def test_evicting_twice_is_no_error(redis_url: str, options: list[str], answer: str | None) -> None:
    answered(redis_url, live=True)
    words = ("sessions", "stop", "c", "--evict", *options)
    first = replayctl(redis_url, *words, answer=answer)
    assert (first.exit_code, first.stdout.endswith("evicted\n")) == (0, True)
    with pytest.raises(SessionNotFound):
        on(redis_url, lambda log: log.resolve("default", "c", None))
    again = replayctl(redis_url, *words, answer=answer)
    assert again.exit_code == 0
    assert again.stdout == "nothing left to stop: stopped (operator) and evicted\n"
    assert read_json(redis_url, *words)["gone"] == "stopped (operator) and evicted"


def test_a_stop_that_names_an_earlier_epoch_stops_nothing(redis_url: str) -> None:
    answered(redis_url)
    earlier = read_json(redis_url, "sessions", "show", "c")["epoch"]
    answered(redis_url, live=True)
    result = replayctl(redis_url, "sessions", "stop", "c", "--epoch", str(earlier))
    assert result.exit_code == 1
    assert "the current one is" in result.stderr
    assert read_json(redis_url, "sessions", "show", "c")["state"] == "running"
