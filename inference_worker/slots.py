"""Which slot a sequence gets, and what the KV cache of the free ones still holds.

Pure. It must not know models, threads or clocks. Only whole prompt chunks are held: they were
computed as any other sequence's would be, so that an answer is the same with them and without.
What was sampled was computed one token at a time, and a prompt is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_worker.engine import SequenceSpec
from replay.adapters import Applied

SIMILARITY_MIN = 0.1
"""Where less of a prompt is held, another conversation's cache is not given up for it."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A slot, how many of the prompt's first tokens its cache holds, and the size of the chunks in
    which the others are fed."""

    slot: int
    cached_tokens: int
    chunk_tokens: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a KV cache holds: whole chunks of a prompt, computed with these adapters."""

    tokens: Tokens = ()
    adapters: Applied = ()


NOTHING = Held()


@dataclass(slots=True)
class _Free:
    held: Held = NOTHING
    turn: int = 0
    """When it was given back, counted in slots given back; 0 for one that holds nothing."""


class Slots:
    """The free slots of one engine; whoever owns it guards it."""

    def __init__(self, count: int, *, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._free = {slot: _Free() for slot in range(count)}
        self._turns = 0

    def __len__(self) -> int:
        return len(self._free)

    def take(self, spec: SequenceSpec) -> Place:
        """The slot that holds most of a prompt; else one that holds nothing, the lowest, since
        llama.cpp computes neighbouring slots in one micro-batch; else the least recently used.

        A prompt's last token is never taken from the cache: it must be computed to be followed.
        Larger chunks than the engine's do not fit its batch.
        """
        chunk = min(spec.prefill_chunk_tokens or self._chunk_tokens, self._chunk_tokens)
        from_cache = spec.cache_prompt and chunk == self._chunk_tokens
        shared = {slot: self._shared(free.held, spec) for slot, free in self._free.items()}
        if not from_cache or max(shared.values()) < SIMILARITY_MIN * len(spec.prompt):
            shared = dict.fromkeys(shared, 0)
        slot = min(shared, key=lambda slot: (-shared[slot], self._free[slot].turn, slot))
        del self._free[slot]
        return Place(slot, shared[slot], chunk)

    def give(self, slot: int, held: Held) -> None:
        """Takes a slot back, whose cache holds this."""
        self._turns += 1
        self._free[slot] = _Free(held, self._turns if held.tokens else 0)

    def held(self) -> dict[int, Held]:
        """What the caches of the free slots hold."""
        return {slot: free.held for slot, free in self._free.items()}

    def note(self, slot: int, held: Held) -> bool:
        """Notes what the cache of a free slot holds from now on; False for one in use."""
        if slot not in self._free:
            return False
        self.give(slot, held)
        return True

    def evict(self) -> int | None:
        """The free slot whose cache was least recently used, which is told to hold nothing; None
        where none holds anything."""
        holding = [slot for slot, free in self._free.items() if free.held.tokens]
        if not holding:
            return None
        slot = min(holding, key=lambda slot: self._free[slot].turn)
        self._free[slot] = _Free()
        return slot

    def _shared(self, held: Held, spec: SequenceSpec) -> int:
        if held.adapters != spec.adapters:
            return 0
        tokens, prompt, size = held.tokens, spec.prompt, self._chunk_tokens
        end = min(len(tokens), (len(prompt) - 1) // size * size)
        shared = 0
        while shared < end and tokens[shared : shared + size] == prompt[shared : shared + size]:
            shared += size
        return shared
