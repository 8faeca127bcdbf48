"""The prompt of a text with a hole, for models that were trained to fill one. Pure."""

from __future__ import annotations

from inference_worker.engine import Engine, FimTokens
from replay.request import Infill

SNIPPET = "\n\n--- snippet ---\n\n"
"""What stands before each further file where the model has no token for it."""


def missing_tokens(fim: FimTokens) -> str:
    """Why the model cannot fill a hole, in llama.cpp's words; "" where it can."""
    told = {"prefix": fim.prefix, "suffix": fim.suffix, "middle": fim.middle}
    missing = [f"{name} token is missing. " for name, token in told.items() if token < 0]
    return "Infill is not supported by this model: " + "".join(missing) if missing else ""


def infill_tokens(engine: Engine, asked: Infill) -> list[int]:
    """Further files, the text before the hole with what is begun in it, the text after it."""
    fim = engine.model.fim
    begun = engine.tokenize("", add_special=True, parse_special=False)[:1]
    before = _tokens(engine, asked.prefix) + _tokens(engine, asked.prompt)
    after = _tokens(engine, asked.suffix)
    hole = [fim.prefix, *before, fim.suffix, *after, fim.middle]
    return [*begun, *_extra(engine, asked), *hole]


def _extra(engine: Engine, asked: Infill) -> list[int]:
    fim = engine.model.fim
    tokens = [fim.repository, *_tokens(engine, "myproject\n")] if fim.repository >= 0 else []
    for name, text in asked.extra:
        tokens += _named(engine, name) if fim.separator >= 0 else _tokens(engine, SNIPPET)
        tokens += _tokens(engine, text)
    return tokens + (_named(engine, "filename") if fim.separator >= 0 else [])


def _named(engine: Engine, name: str) -> list[int]:
    return [engine.model.fim.separator, *_tokens(engine, f"{name}\n")]


def _tokens(engine: Engine, text: str) -> list[int]:
    return engine.tokenize(text, add_special=False, parse_special=False)
