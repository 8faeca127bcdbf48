"""Every error that a client can see, in every dialect in which it can: one table, all of it run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from api import problems
from deploy.local.cluster import Cluster
from replay import errors

from . import refused
from .conftest import URLS
from .refused import ANTHROPIC, COMPLETIONS, NATIVE, OPENAI, RESPONSES, VERTEX, World
from .wire import Node, until

ALL = (OPENAI, RESPONSES, COMPLETIONS, ANTHROPIC, NATIVE)
READING = (NATIVE,)
"""Of a stream there is no dialect to be told in."""

INVALID = "invalid_request_error"


@dataclass(frozen=True)
class Row:
    """What a scenario is answered with; ``type`` is OpenAI's word, ``theirs`` Anthropic's."""

    error: type[Exception]
    scenario: Callable[[World, str], httpx.Response]
    status: int
    type: str = INVALID
    theirs: str = INVALID
    more: Mapping[str, Any] = field(default_factory=dict)
    dialects: tuple[str, ...] = ALL
    is_for_later: bool = False


ROWS = [
    Row(problems.RequestInvalid, refused.invalid, 400, dialects=(*ALL, VERTEX)),
    Row(
        problems.KeyInvalid,
        refused.without_key,
        401,
        "authentication_error",
        "authentication_error",
        dialects=(*ALL, VERTEX),
    ),
    Row(
        problems.ScopeMissing,
        refused.without_scope,
        403,
        "permission_error",
        "permission_error",
        {"scope": "generate"},
        (*ALL, VERTEX),
    ),
    Row(
        problems.LinkInvalid,
        refused.by_bad_link,
        403,
        "permission_error",
        more={"reason": "link invalid"},
        dialects=READING,
    ),
    Row(problems.NothingThere, refused.of_no_route, 404, "not_found_error", "not_found_error"),
    Row(
        problems.BodyTooLarge,
        refused.too_large,
        413,
        theirs="request_too_large",
        dialects=(*ALL, VERTEX),
    ),
    Row(
        problems.TooManySessions,
        refused.too_many,
        429,
        "rate_limit_error",
        "rate_limit_error",
        {"reason": "live", "limit": 1},
        (*ALL, VERTEX),
        is_for_later=True,
    ),
    Row(
        problems.ContextExceeded,
        refused.too_long,
        400,
        "exceed_context_size_error",
        more={"n_prompt_tokens": ANY, "n_ctx": 8192},
        dialects=(*ALL, VERTEX),
    ),
    Row(
        problems.Unavailable,
        refused.of_failed_model,
        503,
        "unavailable_error",
        "overloaded_error",
        {"reason": "load"},
        is_for_later=True,
    ),
    Row(problems.ConversationBusy, refused.while_busy, 409, more={"current_epoch": ANY}),
    Row(problems.EngineBroken, refused.of_broken_worker, 500, "server_error", "api_error"),
    Row(problems.NotSupported, refused.of_other_ability, 501, "not_supported_error", "api_error"),
    Row(
        problems.SessionEnded,
        refused.stopped_before_a_word,
        400,
        more={"state": "stopped", "reason": "client"},
    ),
    Row(
        problems.SessionEnded,
        refused.failed_before_a_word,
        500,
        "server_error",
        "api_error",
        {"state": "failed", "reason": "engine"},
        (*ALL, VERTEX),
    ),
    Row(
        problems.SessionEnded,
        refused.given_up,
        503,
        "unavailable_error",
        "overloaded_error",
        {"state": "failed", "reason": "limit"},
        is_for_later=True,
    ),
    Row(
        errors.SessionNotFound,
        refused.unknown,
        404,
        "not_found_error",
        more={"reason": ""},
        dialects=(RESPONSES, NATIVE),
    ),
    Row(errors.SessionExpired, refused.expired, 410, more={"epoch": ANY}),
    Row(errors.OffsetInvalid, refused.from_nowhere, 400, dialects=READING),
    Row(
        errors.OffsetExpired,
        refused.from_before_the_window,
        410,
        more={"first_offset": 9},
        dialects=READING,
    ),
    Row(
        errors.OffsetBeyondEnd,
        refused.from_beyond_the_end,
        416,
        more={"size": 3},
        dialects=READING,
    ),
    Row(
        errors.OffsetDoubtful,
        refused.from_a_doubt,
        416,
        more={"size": 3, "reason": "forgotten"},
        dialects=READING,
    ),
    Row(
        errors.EpochMismatch,
        refused.of_another_epoch,
        409,
        more={"current_epoch": ANY},
        dialects=(RESPONSES, NATIVE),
    ),
    Row(
        errors.StoppedMeanwhile,
        refused.stopped_while_checked,
        400,
        more={"state": "stopped", "reason": "client"},
    ),
    Row(errors.IntentMismatch, refused.with_a_used_key, 422),
    Row(
        errors.LineFull,
        refused.in_a_full_line,
        503,
        "unavailable_error",
        "overloaded_error",
        {"reason": "busy"},
        is_for_later=True,
    ),
    Row(
        errors.LogUnavailable,
        refused.without_redis,
        503,
        "unavailable_error",
        "overloaded_error",
        {"reason": "redis"},
        is_for_later=True,
    ),
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that allows little."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the limits of what runs elsewhere are not known")
    with refused.strict_cluster(tmp_path_factory.mktemp("strict")) as cluster:
        node = Node(cluster.nodes[0], "owner")
        with node.http:
            until(node.is_sure)
        yield cluster


def test_every_error_of_the_code_has_a_row_and_every_row_an_error() -> None:
    assert {row.error for row in ROWS} == set(problems.TABLE)


@pytest.mark.clause("ERR-1")
@pytest.mark.clause("MSG-4")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.scenario.__name__)
def test_it_is_told_in_every_dialect(row: Row, request: pytest.FixtureRequest) -> None:
    with ExitStack() as stack:
        world = World(request, stack)
        for dialect in row.dialects:
            checked(row, dialect, row.scenario(world, dialect))


def checked(row: Row, dialect: str, response: httpx.Response) -> None:
    """The whole refusal: status, envelope, words, and whether to come again."""
    body, status = response.json(), response.status_code
    is_prediction = dialect == VERTEX and status == 200
    if is_prediction:
        [body] = body["predictions"]
        status = body["error"]["code"]
    assert status == row.status, (dialect, response.text)
    assert response.headers["content-type"] == "application/json"
    error = dict(body["error"])
    assert error.pop("message")
    kind = row.theirs if dialect == ANTHROPIC else row.type
    assert error == {"code": row.status, "type": kind, **row.more}, dialect
    if dialect == ANTHROPIC:
        assert body == {"type": "error", "error": ANY, "request_id": response.headers["request-id"]}
    else:
        assert body == {"error": ANY}
    assert ("retry-after" in response.headers) is (row.is_for_later and not is_prediction), dialect
