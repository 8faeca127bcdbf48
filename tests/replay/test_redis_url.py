"""What a Redis URL says, and what is wrong with one, in a line without its password."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import SSLConnection

from replay.redis_url import Kind, Place, check_planes, parse, shown

THREE = (("a", 1), ("b", 2), ("c", 3))


@pytest.mark.parametrize(
    ("url", "kind", "places", "service", "options"),
    [
        ("redis://", Kind.SERVER, (("localhost", 6379),), "", {}),
        ("redis://h:7/3", Kind.SERVER, (("h", 7),), "", {"db": 3}),
        (
            "redis://u:p%40s@h",
            Kind.SERVER,
            (("h", 6379),),
            "",
            {"username": "u", "password": "p@s"},
        ),
        ("redis://[::1]:7", Kind.SERVER, (("::1", 7),), "", {}),
        ("redis+sentinel://a:1,b:2,c:3/mine", Kind.SENTINEL, THREE, "mine", {}),
        (
            "redis+sentinel://:p@a,b:2/mine/4",
            Kind.SENTINEL,
            (("a", 26379), ("b", 2)),
            "mine",
            {"db": 4, "password": "p"},
        ),
        ("redis+cluster://a:1,b:2,c:3", Kind.CLUSTER, THREE, "", {}),
        ("redis+cluster://a:1,b:2,c:3/0", Kind.CLUSTER, THREE, "", {"db": 0}),
        ("redis+cluster://[::1]:7,a", Kind.CLUSTER, (("::1", 7), ("a", 6379)), "", {}),
    ],
)
def test_a_url_is_taken_apart(
    url: str, kind: Kind, places: tuple[Place, ...], service: str, options: dict[str, Any]
) -> None:
    parsed = parse(url)
    assert (parsed.kind, parsed.places, parsed.service) == (kind, places, service)
    assert parsed.options == options


def test_tls_and_its_options_go_for_every_kind() -> None:
    for url in ("rediss://h", "rediss+sentinel://a,b/s", "rediss+cluster://a,b"):
        options = parse(url + "?ssl_ca_certs=/ca.pem").options
        assert options["connection_class"] is SSLConnection
        assert options["ssl_ca_certs"] == "/ca.pem"


def test_a_socket_is_no_place() -> None:
    parsed = parse("unix:///run/redis.sock?db=2")
    assert (parsed.kind, parsed.places) == (Kind.SERVER, ())
    assert (parsed.options["path"], parsed.options["db"]) == ("/run/redis.sock", 2)


def test_sentinels_may_have_a_password_of_their_own() -> None:
    parsed = parse("redis+sentinel://u:p@a/s?sentinel_username=w&sentinel_password=q")
    assert parsed.options == {"username": "u", "password": "p"}
    assert parsed.sentinel_options == {"username": "w", "password": "q"}
    assert "p" not in repr(parsed).replace("places", "")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("htp://:secret@h", "no Redis URL"),
        ("", "no Redis URL"),
        ("redis+ring://:secret@h", "no Redis URL"),
        ("unix+cluster:///secret", "no Redis URL"),
        ("redis://:secret@a,b", "names one host"),
        ("redis://:secret@h:port", "cannot be read"),
        ("redis+sentinel://:secret@a,b", "the service's name"),
        ("redis+sentinel://:secret@a,,b/s", "a host of the Redis URL is empty"),
        ("redis+sentinel://:secret@a/s/x", "is a number, not 'x'"),
        ("redis://:secret@h/sessions", "is a number, not 'sessions'"),
        ("redis+cluster://:secret@a,b/1", "no database but 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_the_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://user:hunter2@host:6379/3?ssl=1", "redis://host:6379"),
        ("rediss://:hun@ter2@host", "rediss://host"),
        ("redis+sentinel://:p@a:1,b:2/s/0?sentinel_password=q", "redis+sentinel://a:1,b:2"),
        ("unix://user:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, what: str) -> None:
    assert shown(url) == what


def test_the_queues_are_where_the_logs_are_but_never_on_a_cluster() -> None:
    check_planes("redis://a", None)
    check_planes("redis+sentinel://a/s", "")
    check_planes("redis+cluster://a", "redis+sentinel://b/s")
    for log, queue in (
        ("redis+cluster://a", None),
        ("redis+cluster://a", ""),
        ("redis://a", "redis+cluster://b"),
    ):
        with pytest.raises(ValueError, match=r"REPLAY_QUEUE_REDIS_URL: .* of their own"):
            check_planes(log, queue)
    with pytest.raises(ValueError, match=r"^REPLAY_REDIS_URL: no Redis URL"):
        check_planes("h:6379", None)
    with pytest.raises(ValueError, match=r"^REPLAY_QUEUE_REDIS_URL: no Redis URL"):
        check_planes("redis://h", "h:6379")
