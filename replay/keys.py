"""Every Redis key, channel and queue name there is; nobody else formats one.

All keys of a conversation carry one hash tag, ``{tenant:base}``, so that they lie in one slot of a
Redis Cluster and scripts may touch them together.
"""

from __future__ import annotations

import zlib

from replay.identity import SEPARATOR, Conversation, SessionRef, encode

PREFIX = "rc"
RECORDS = f"{PREFIX}:{{*:record"
"""The pattern of all session records."""

LIVE_SHARDS = 16
"""Over how many sorted sets the watch index is spread, so that a Cluster shares its load."""


def stem(conversation: Conversation) -> str:
    """What all keys of the conversation begin with, its hash tag included."""
    return f"{PREFIX}:{{{encode(conversation.tenant)}:{encode(conversation.base)}}}:"


def conversations(conversation: Conversation) -> str:
    """Set: the encoded ids of the conversations in this slot, for the lookup by prefix."""
    return stem(conversation) + "conversations"


def route(conversation: Conversation) -> str:
    """Hash: the conversation's entry in the map: epoch, model, retained sessions, tombstone."""
    return f"{stem(conversation)}route:{encode(conversation.id)}"


def stopped(conversation: Conversation, name: str) -> str:
    """String: the time of a stop under this name, which refuses a POST in validation."""
    return f"{stem(conversation)}stopped:{encode(name)}"


def intent(conversation: Conversation, key: str) -> str:
    """String: which session this idempotency key has opened, and for which request."""
    return f"{stem(conversation)}intent:{encode(conversation.id)}:{encode(key)}"


def line(conversation: Conversation) -> str:
    """Sorted set: the POSTs that wait for the live session's end, by their queue number."""
    return f"{stem(conversation)}line:{encode(conversation.id)}"


def place(conversation: Conversation, nonce: str) -> str:
    """String: there while the POST of this nonce waits in the line."""
    return f"{line(conversation)}:{nonce}"


def session(ref: SessionRef) -> str:
    """What the keys of one session begin with: ``...conversation::model:epoch``."""
    return (
        f"{stem(ref.conversation)}{encode(ref.conversation_id)}"
        f"{SEPARATOR}{encode(ref.model)}:{ref.epoch}"
    )


def record(ref: SessionRef) -> str:
    """Hash: the session record."""
    return session(ref) + ":record"


def stream(ref: SessionRef) -> str:
    """Stream: the session log; an entry's id is the offset at which its bytes end."""
    return session(ref) + ":stream"


def tokens(ref: SessionRef) -> str:
    """String: the sampled token ids, eight bytes each."""
    return session(ref) + ":tokens"


def channel(ref: SessionRef) -> str:
    """Channel: the session's bytes as they are appended, and its end."""
    return session(ref) + ":channel"


def news(conversation: Conversation) -> str:
    """Channel, without a message: something was opened in this slot, has ended, or was evicted."""
    return stem(conversation) + "news"


def completion(completion_id: str) -> str:
    """String: the path of the session whose answer has this id."""
    return f"{PREFIX}:completion:{encode(completion_id)}"


def live(conversation: Conversation) -> str:
    """Sorted set: one shard of the watch index, conversation path to next look."""
    return live_shard(zlib.crc32(conversation.path().encode()) % LIVE_SHARDS)


def live_shard(shard: int) -> str:
    """Sorted set: shard 0 to ``LIVE_SHARDS`` - 1 of the watch index."""
    return f"{PREFIX}:live:{{{shard}}}"


def worker(worker_id: str) -> str:
    """String: a worker's record as JSON; lives by heartbeat."""
    return f"{PREFIX}:worker:{encode(worker_id)}"


def workers() -> str:
    """Sorted set: worker ids by their last heartbeat."""
    return f"{PREFIX}:workers"


def adapters(model: str) -> str:
    """String: how much of a model's adapters counts where a request names none, as JSON."""
    return f"{PREFIX}:adapters:{encode(model)}"


def node(node_id: str) -> str:
    """String: a node's record as JSON; lives by heartbeat."""
    return f"{PREFIX}:node:{encode(node_id)}"


def nodes() -> str:
    """Sorted set: node ids by their last heartbeat."""
    return f"{PREFIX}:nodes"


def control(worker_id: str) -> str:
    """Channel: what a worker is told at once (``stop``, ``end-thought``)."""
    return f"{PREFIX}:control:{encode(worker_id)}"


def queue(model: str) -> str:
    """Sorted set of the queue plane: arq's queue of one model."""
    return f"{PREFIX}:queue:{encode(model)}"


def queue_number() -> str:
    """Counter of the queue plane: the order in which sessions were queued, over all models."""
    return f"{PREFIX}:queue-number"


def wake() -> str:
    """Channel of the queue plane: the model whose queue has just got a job."""
    return f"{PREFIX}:wake"


def prepare(model: str) -> str:
    """List of the queue plane: questions that any worker with the model answers without a slot."""
    return f"{PREFIX}:prepare:{encode(model)}"


def embedding(model: str) -> str:
    """List of the queue plane: questions that the model must compute for, without a slot."""
    return f"{PREFIX}:embedding:{encode(model)}"


def slots(worker_id: str, model: str) -> str:
    """List of the queue plane: orders about the slots that one worker has for the model."""
    return f"{PREFIX}:slots:{encode(worker_id)}:{encode(model)}"


def inbox(node_id: str) -> str:
    """List of the queue plane: the answers for one node."""
    return f"{PREFIX}:inbox:{encode(node_id)}"
