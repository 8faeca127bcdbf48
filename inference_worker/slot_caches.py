"""The KV caches of the slots that are free: what is left in them, and how they are emptied, saved
and restored.

It must not know how a model computes, nor files. Only the engine's thread calls it, between two
steps; other threads take slots meanwhile. So a cache that is to change first holds nothing, for all
that they can see, and is changed then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from inference_worker.engine import FinishReason
from inference_worker.errors import EngineFailed, SavedUnfit, SlotBusy
from inference_worker.model import Model, SlotsExhausted
from inference_worker.saved_slot import SavedSlot
from inference_worker.sequence import Sequence
from inference_worker.slots import NOTHING, Held, Slots

log = logging.getLogger(__name__)


class SlotCaches:
    """``lock`` is the engine's and guards ``slots``."""

    def __init__(
        self, model: Model, slots: Slots, lock: threading.Lock, *, chunk_tokens: int
    ) -> None:
        self._model = model
        self._slots = slots
        self._lock = lock
        self._chunk_tokens = chunk_tokens

    @property
    def _made_by(self) -> Mapping[str, str]:
        """What must be the same where a cache is restored."""
        return {**self._model.cache_kind, "chunk": f"{self._chunk_tokens} tokens"}

    def left_by(self, sequence: Sequence) -> Held:
        """What the next sequence in its slot may begin with; nothing where something broke."""
        assert sequence.finish is not None
        is_sound = sequence.finish.reason is not FinishReason.FAILED
        held = sequence.whole_chunks(self._chunk_tokens) if is_sound else ()
        try:
            kept = held[: self._model.trim(sequence.slot, len(held))]
        except Exception:  # its own failure, and it is over: the next one in its slot finds out
            log.exception("slot %d cannot be trimmed", sequence.slot)
            return NOTHING
        return Held(kept, sequence.spec.adapters)

    def evict(self) -> bool:
        """Empties a free slot's cache to make room for what runs; False where all are empty."""
        with self._lock:
            slot = self._slots.evict()
        if slot is None:
            return False
        self._model.trim(slot, 0)
        return True

    def erase(self, slot: int) -> int:
        """See ``Engine.erase_slot``."""
        held = self._held(slot)
        self._empty(slot)
        return len(held.tokens)

    def save(self, slot: int) -> SavedSlot:
        """See ``Engine.save_slot``."""
        held = self._held(slot)
        data = self._model.save_cache(slot) if held.tokens else b""
        return SavedSlot(self._made_by, held.tokens, data, held.adapters)

    def restore(self, slot: int, saved: SavedSlot) -> None:
        """See ``Engine.restore_slot``."""
        self._check(saved)
        self._empty(slot)
        if saved.tokens:
            self._load(slot, saved)
            self._note(slot, Held(saved.tokens, saved.adapters))

    def _held(self, slot: int) -> Held:
        with self._lock:
            held = self._slots.held().get(slot)
        if held is None:
            raise SlotBusy(slot)
        return held

    def _note(self, slot: int, held: Held) -> None:
        with self._lock:
            if not self._slots.note(slot, held):
                raise SlotBusy(slot)

    def _empty(self, slot: int) -> None:
        self._note(slot, NOTHING)
        self._model.trim(slot, 0)

    def _load(self, slot: int, saved: SavedSlot) -> None:
        try:
            self._model.load_cache(slot, saved.data)
        except SlotsExhausted:
            raise SavedUnfit("the KV cache has no room for it") from None
        if self._model.trim(slot, len(saved.tokens)) != len(saved.tokens):
            raise EngineFailed(f"slot {slot} does not hold what was restored")

    def _check(self, saved: SavedSlot) -> None:
        """Raises SavedUnfit: a model that reads what is not its own may end the process."""
        for what, here in self._made_by.items():
            there = saved.made_by.get(what, "nothing")
            if there != here:
                raise SavedUnfit(
                    f"it was saved with another {what}: {there!s:.200}, here it is {here}"
                )
        info, tokens = self._model.info, saved.tokens
        if len(tokens) % self._chunk_tokens or len(tokens) > info.context_tokens:
            raise SavedUnfit(f"a slot cannot hold {len(tokens)} tokens here")
        if any(token >= info.vocabulary_tokens for token in tokens):
            raise SavedUnfit("it has tokens that the model does not have")
