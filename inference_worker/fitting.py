"""Whether a sequence may run on a model at all. Pure."""

from __future__ import annotations

from inference_worker.engine import (
    EngineFailed,
    ModelInfo,
    PromptInvalid,
    PromptTooLong,
    SequenceSpec,
)


def check_fits(model: ModelInfo, spec: SequenceSpec) -> None:
    """Raises PromptInvalid (an empty prompt), PromptTooLong, or EngineFailed where this is not the
    model that it was prepared for: it would not say what the first worker would."""
    if not spec.prompt:
        raise PromptInvalid("the prompt is empty")
    if len(spec.prompt) >= model.context_tokens:
        raise PromptTooLong(len(spec.prompt), model.context_tokens)
    if spec.shift and spec.shift.context_tokens > model.context_tokens:
        # In a smaller one other tokens would be gone.
        raise EngineFailed(f"the session needs a context of {spec.shift.context_tokens} tokens")
    missing = {sha256 for sha256, _ in spec.adapters} - {one.sha256 for one in model.adapters}
    if missing:
        raise EngineFailed(f"the session needs adapters that are not here: {', '.join(missing)}")
