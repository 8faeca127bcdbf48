"""The arguments and options that several commands share, and what is wrong with a value. Pure."""

from __future__ import annotations

from typing import Annotated

import typer

from replay.redis_url import checked

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379"
DEFAULT_TENANT = "default"


def redis_url(url: str) -> str:
    """The URL, where it is one. Raises BadParameter, without the URL: it may hold a password."""
    try:
        return checked(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def optional_redis_url(url: str) -> str:
    """The same, or ""."""
    return redis_url(url) if url else ""


def name(text: str) -> str:
    """An id as the shell gave it. Raises BadParameter where it is empty or no Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("not valid UTF-8") from None
    if not text:
        raise typer.BadParameter("empty")
    return text


RedisUrl = Annotated[
    str,
    typer.Option(
        "--redis-url", envvar="REPLAY_REDIS_URL", callback=redis_url, help="Redis of the log plane."
    ),
]
QueueRedisUrl = Annotated[
    str,
    typer.Option(
        "--queue-redis-url",
        envvar="REPLAY_QUEUE_REDIS_URL",
        callback=optional_redis_url,
        help="Redis of the queue plane; absent: the log plane's.",
        show_default=False,
    ),
]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        callback=name,
        help="The conversation, as its client names it (X-Conversation-Id).",
        show_default=False,
    ),
]
Tenant = Annotated[
    str,
    typer.Option("--tenant", callback=name, help="The conversation's tenant, see `sessions ls`."),
]
Epoch = Annotated[
    int | None,
    typer.Option(
        "--epoch", min=1, help="Which session of the conversation; absent: the current one."
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="Show ids whole; they are users' data, so shortened else.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts, ids whole.")]
