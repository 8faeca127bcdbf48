"""Where a plane is: one server, the master that sentinels know, or a cluster. Pure.

    redis://[user:password@]host:6379[/db]                      also rediss:// (TLS), unix:///path
    redis+sentinel://[user:password@]host:26379,host:26379/service[/db]
    redis+cluster://[user:password@]host:6379,host:6379

Query options are redis-py's (``?ssl_ca_certs=/path``); user and password are those of the Redis
servers, ``?sentinel_username=`` and ``?sentinel_password=`` those of the sentinels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import parse_url

SERVER_PORT = 6379
SENTINEL_PORT = 26379
SENTINEL_OPTION = "sentinel_"
NO_QUEUE_ON_CLUSTER = (
    "the queues need a Redis of their own, one server or sentinels: arq knows no Redis Cluster"
)

Place = tuple[str, int]
"""Host and port."""


class Kind(Enum):
    """What answers at a plane's URL."""

    SERVER = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, taken apart.

    ``places``: the server, the sentinels, or the nodes of the cluster that are asked first; none
    for a Unix socket. ``options`` are redis-py's for a connection, but for host and port;
    ``sentinel_options`` those for a sentinel.
    """

    kind: Kind
    places: tuple[Place, ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def parse(url: str) -> RedisUrl:
    """Raises ValueError, without the URL in its text: it may hold a password."""
    parts = urlsplit(url)
    kind = _kind(parts.scheme)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) > 1 and not all(hosts):
        raise ValueError("a host of the Redis URL is empty")
    if kind is Kind.SERVER and len(hosts) > 1:
        raise ValueError("redis:// names one host; several are sentinels or nodes of a cluster")
    service, database = _path(kind, parts)
    options, places = {}, []
    for host in hosts:
        options = _options(parts, host, database)
        port = SENTINEL_PORT if kind is Kind.SENTINEL else SERVER_PORT
        places.append((options.pop("host", "localhost"), options.pop("port", port)))
    own = {name: value for name, value in options.items() if not name.startswith(SENTINEL_OPTION)}
    told = {name for name in options if name not in own}
    return RedisUrl(
        kind,
        () if "path" in options else tuple(places),
        service,
        own,
        {name.removeprefix(SENTINEL_OPTION): options[name] for name in told},
    )


def checked(url: str) -> str:
    """The URL, where it is one. Raises ValueError as ``parse`` does."""
    parse(url)
    return url


def check_planes(log: str, queue: str | None) -> None:
    """Raises ValueError, naming the setting, where one of the planes' URLs cannot be used.

    Without a ``queue`` the queues are where the logs are.
    """
    for setting, url in (("REPLAY_REDIS_URL", log), ("REPLAY_QUEUE_REDIS_URL", queue or log)):
        try:
            kind = parse(url).kind
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
    if kind is Kind.CLUSTER:
        raise ValueError(f"REPLAY_QUEUE_REDIS_URL: {NO_QUEUE_ON_CLUSTER}")


def shown(url: str) -> str:
    """Scheme and hosts, or the path: what may be shown of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2] or parts.path}"


def _kind(scheme: str) -> Kind:
    plain, _, kind = scheme.partition("+")
    try:
        if plain in ("redis", "rediss") or (plain, kind) == ("unix", ""):
            return Kind(kind)
    except ValueError:
        pass
    raise ValueError(
        "no Redis URL; it looks like redis://host:6379/0, rediss://..., unix:///path, "
        "redis+sentinel://host:26379,host:26379/service or redis+cluster://host:6379,host:6379"
    )


def _path(kind: Kind, parts: SplitResult) -> tuple[str, str]:
    """The service and the database that the path names."""
    if parts.scheme == "unix":
        return "", ""
    service, database = "", parts.path.strip("/")
    if kind is Kind.SENTINEL:
        service, _, database = database.partition("/")
        if not service:
            raise ValueError("a redis+sentinel:// URL ends with the service's name: .../service")
    if database and not database.isdecimal():
        raise ValueError(f"the database of a Redis URL is a number, not {database!r}")
    if kind is Kind.CLUSTER and int(database or 0):
        raise ValueError("a Redis Cluster has no database but 0")
    return service, database


def _options(parts: SplitResult, host: str, database: str) -> dict[str, Any]:
    """What redis-py reads from the same URL with this host alone."""
    user, at, _ = parts.netloc.rpartition("@")
    path = parts.path if parts.scheme == "unix" else database
    single = parts._replace(
        scheme=parts.scheme.partition("+")[0], netloc=f"{user}{at}{host}", path=path
    )
    try:
        return dict(parse_url(single.geturl()))
    except ValueError as error:
        raise ValueError(f"a Redis URL that cannot be read: {error}") from None
