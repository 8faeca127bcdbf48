"""Claiming: a session becomes this worker's, with all that the log has of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from inference_worker.producer import stored_chunks
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import Leases, SessionLog
from replay.log_values import Claim, ClaimResult, ClaimStatus
from replay.records import Chunk, SessionRecord, Token, unpack_tokens

CLAIM_TRIES = 20
CLAIM_RETRY_S = 0.1
"""A log that is away for this long (2 s) loses the job; the sweeper queues the session again."""

logger = logging.getLogger(__name__)


class ClaimableLog(SessionLog, Leases, Protocol):
    """What a worker needs of the log."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim, and what the log had of the session then.

    ``is_takeover``: another worker may have written before, so that nothing may be appended until
    the claim is on disk.
    """

    claim: Claim
    record: SessionRecord
    tokens: list[Token]
    body: list[Chunk]
    is_takeover: bool


class Claims:
    """How one worker claims."""

    def __init__(self, log: ClaimableLog, *, worker: str, lease_s: float) -> None:
        self._log = log
        self._worker = worker
        self._lease_s = lease_s

    async def claim(self, ref: SessionRef) -> Claimed | None:
        """The claim, and what the log has of the session; None where it is not ours."""
        nonce = uuid4().hex
        for _ in range(CLAIM_TRIES):
            try:
                result = await self._log.claim(
                    ref, worker=self._worker, nonce=nonce, lease_s=self._lease_s
                )
                return await self._claimed(ref, result)
            except LogUnavailable as error:
                logger.warning("claiming again: %s", error)
                await asyncio.sleep(CLAIM_RETRY_S)
        return None

    async def _claimed(self, ref: SessionRef, result: ClaimResult) -> Claimed | None:
        if result.status is not ClaimStatus.CLAIMED:
            logger.info("not claimed (%s): %s", result.status, ref.path())
        claim = result.claim
        record = await self._log.record(ref) if claim else None
        if claim is None or record is None or record.state.is_final:
            return None
        tokens, body = await self._stored(record)
        is_takeover = claim.attempt > 1 or result.doubtful
        return Claimed(claim, record, tokens, body, is_takeover)

    async def _stored(self, record: SessionRecord) -> tuple[list[Token], list[Chunk]]:
        """What the log has; with its body a Redis that forgets can be told again.

        Raises LogUnavailable.
        """
        ref, tokens, body = record.ref, [], []
        if record.token_count:
            tokens = unpack_tokens(await self._log.tokens(ref))[: record.token_count]
        if record.end:
            body = [chunk async for chunk in stored_chunks(self._log, ref, 0)]
        if record.end and (not body or body[-1].end != record.end):
            raise LogUnavailable("Redis has forgotten some of it since it was claimed")
        return tokens, body
