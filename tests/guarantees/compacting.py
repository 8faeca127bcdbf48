"""A process that compacts ended conversations, to be killed in the middle of it.

    python -m tests.guarantees.compacting <Redis's URL> <conversations>

It does not wait until they are settled, and names each before it begins with it.
"""

from __future__ import annotations

import asyncio
import sys

from replay.compaction import Compactor
from replay.identity import Conversation
from replay.redis_log import RedisLog
from replay.redis_plane import connect


async def run(url: str, names: list[str]) -> None:
    """Compacts them, one after another."""
    redis = connect(url)
    compactor = Compactor(RedisLog(redis), settled_s=0.0)
    for name in names:
        print(name, flush=True)
        await compactor.compact(Conversation("default", name))
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2:]))
