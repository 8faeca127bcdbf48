"""Texts that a loaded GGUF carries: its templates, and what its tokens show or are called."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp

from inference_worker.engine import FimTokens


def template(model: Any, name: bytes | None) -> str:
    """The file's template of this name, or its main one; "" where it has none."""
    source = llama_cpp.llama_model_chat_template(model, name)
    return source.decode("utf-8", "replace") if source else ""


def token_text(vocab: Any, token: int) -> str:
    """A token's name; "" for one that the vocabulary does not have."""
    if token < 0:
        return ""
    return str(llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", "replace"))


def token_piece(vocab: Any, token: int, *, special: bool = False) -> bytes:
    """The bytes that a token shows; those of a ``special`` one are its name."""
    buffer = ctypes.create_string_buffer(64)
    length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, special)
    if length < 0:
        buffer = ctypes.create_string_buffer(-length)
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, special)
    return buffer.raw[:length]


def fim_tokens(vocab: Any) -> FimTokens:
    """With which it is told to fill a hole."""
    return FimTokens(
        prefix=llama_cpp.llama_vocab_fim_pre(vocab),
        suffix=llama_cpp.llama_vocab_fim_suf(vocab),
        middle=llama_cpp.llama_vocab_fim_mid(vocab),
        repository=llama_cpp.llama_vocab_fim_rep(vocab),
        separator=llama_cpp.llama_vocab_fim_sep(vocab),
    )
