"""Who a session is: tenant, conversation, model and epoch, and how that is written down.

Pure. The percent-encoding is what keeps a client's id from breaking a key's hash tag: an encoded
part holds letters, digits, ``-._~`` and ``%``, hence neither ``:`` nor ``{`` nor ``}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

SEPARATOR = "::"
"""Stands between a conversation and a model, as in ``conv_id::model``."""

NAME_BYTES_MAX = 1024

ENCODED_MAX = 4096
"""So many names are kept encoded: a session's keys are spelled for each token."""

KEYED = "~key:"
"""What the conversation of a bare Idempotency-Key begins with; no client may name one so."""


@lru_cache(ENCODED_MAX)
def encode(part: str) -> str:
    """Percent-encodes everything that is not a letter, a digit or one of ``-._~``."""
    return quote(part, safe="")


def decode(part: str) -> str:
    """The inverse of ``encode``."""
    return unquote(part)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a client names by ``conv_id``, within its tenant. Its sessions follow one another."""

    tenant: str
    id: str

    @property
    def base(self) -> str:
        """The text before the first ``::``; with the tenant it decides the Redis slot.

        Less its trailing colons: the session ``a:::m`` of the conversation ``a:`` must lie with it.
        """
        return self.id.split(SEPARATOR, 1)[0].rstrip(":")

    @property
    def is_keyed(self) -> bool:
        """Whether an Idempotency-Key is all that names it."""
        return self.id.startswith(KEYED)

    def path(self) -> str:
        """``tenant/conversation``, encoded: the member of the watch index."""
        return f"{encode(self.tenant)}/{encode(self.id)}"

    @classmethod
    def from_path(cls, path: str) -> Conversation:
        """The inverse of ``path``. Raises ValueError where it is none."""
        tenant, conversation = path.split("/")
        return cls(decode(tenant), decode(conversation))


@dataclass(frozen=True, slots=True)
class SessionRef:
    """One session: one generation of a conversation. Everything of it is found from these four."""

    tenant: str
    conversation_id: str
    model: str
    epoch: int

    @property
    def conversation(self) -> Conversation:
        """The conversation that this session belongs to."""
        return Conversation(self.tenant, self.conversation_id)

    def path(self) -> str:
        """``tenant/conversation/model/epoch``, encoded: in jobs and messages."""
        return f"{self.conversation.path()}/{encode(self.model)}/{self.epoch}"

    @classmethod
    def from_path(cls, path: str) -> SessionRef:
        """The inverse of ``path``. Raises ValueError where it is none."""
        tenant, conversation, model, epoch = path.split("/")
        return cls(decode(tenant), decode(conversation), decode(model), int(epoch))


def conversation_of(name: str, models: Iterable[str]) -> str:
    """The conversation that a session name means: the name less a trailing ``::<model>``.

    ``models`` are the body's model and its aliases; any other ``::`` belongs to the id.
    """
    for model in models:
        rest = name.removesuffix(SEPARATOR + model)
        if rest and rest != name:
            return rest
    return name


def candidates(name: str) -> list[str]:
    """The conversations that a name without a body may mean, the longest first.

    ``a::b::m`` may be the conversation itself, or a session of ``a::b`` or of ``a``.
    """
    found = [name]
    cut = name.rfind(SEPARATOR)
    while cut > 0:
        found.append(name[:cut])
        cut = name.rfind(SEPARATOR, 0, cut + 1)  # separators may overlap
    return found
