"""The log in memory keeps the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from log_contract import LogContract

from replay.identity import Conversation, SessionRef
from replay.limits import INTENT_S
from replay.memory_log import MemoryLog

pytestmark = pytest.mark.anyio


class MemoryHarness:
    """A log whose clock a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.log = MemoryLog(self._tick)

    def _tick(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def channels(self, on_message: Any, on_reset: Any) -> Any:
        return self.log.channels(on_message, on_reset)

    async def pass_retention(self, ref: SessionRef) -> None:
        session = self.log._sessions[ref]
        session.record = replace(session.record, expires_ms=1)

    async def expire_lease(self, ref: SessionRef) -> None:
        record = await self.log.record(ref)
        assert record is not None
        lease_ms = record.lease_until_ms - 120_000
        self.log._sessions[ref].record = replace(record, lease_until_ms=lease_ms)

    async def forget(self, conversation: Conversation) -> None:
        route = self.log._routes.pop((conversation.tenant, conversation.id))
        for ref in route.sessions.values():
            del self.log._sessions[ref]

    async def forget_session(self, ref: SessionRef) -> None:
        del self.log._sessions[ref]

    async def lose_tail(self, ref: SessionRef, end: int, token_count: int) -> None:
        session = self.log._sessions[ref]
        session.chunks = [chunk for chunk in session.chunks if chunk.end <= end]
        session.tokens = session.tokens[:token_count]
        await self.alter(ref, end=end, token_count=token_count)

    async def alter(self, ref: SessionRef, **fields: Any) -> None:
        session = self.log._sessions[ref]
        session.record = replace(session.record, **fields)

    async def restart(self, ref: SessionRef) -> None:
        await self.alter(ref, run_id="another")

    async def pass_recovery(self, ref: SessionRef) -> None:
        await self.alter(ref, other_ms=1)

    async def expire_place(self, conversation: Conversation, nonce: str) -> None:
        del self.log._routes[conversation.tenant, conversation.id].line[nonce]

    async def expire_intent(self, conversation: Conversation, key: str) -> None:
        self.now_ms += round(1000 * INTENT_S)

    async def expire_completion(self, completion_id: str) -> None:
        self.now_ms += 60_000


class TestMemoryLog(LogContract):
    """All of the contract."""

    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()
