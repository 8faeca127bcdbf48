"""What an engine refuses, and what breaks in it. The port (``engine``) has all of it too."""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything an engine raises; never raised itself."""


class NoFreeSlot(EngineError):
    """Every slot is taken: whoever submits waits for a finish, or goes to another worker."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.slots = slots

    def __str__(self) -> str:
        return f"all {self.slots} slots are taken"


class PromptTooLong(EngineError):
    """The prompt leaves no room for one token; the caller must shorten it."""

    def __init__(self, tokens: int, context_tokens: int) -> None:
        super().__init__(tokens, context_tokens)
        self.tokens = tokens
        self.context_tokens = context_tokens

    def __str__(self) -> str:
        return (
            f"request ({self.tokens} tokens) exceeds the available context size "
            f"({self.context_tokens} tokens), try increasing it"
        )


class PromptInvalid(EngineError):
    """The chat template refuses these messages; ``field`` names what the client must change."""

    def __init__(self, message: str, field: str = "messages") -> None:
        super().__init__(message, field)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


class EngineFailed(EngineError):
    """The model could not be loaded, or its thread died: the operator must act."""


class SlotBusy(EngineError):
    """A sequence has the slot, whose cache is therefore left alone."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot)
        self.slot = slot

    def __str__(self) -> str:
        return "the slot is in use"


class SavedUnfit(EngineError):
    """What was saved cannot be restored here; the message says why."""
