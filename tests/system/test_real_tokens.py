"""Tokens and counting by the real model's vocabulary and template."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_client import CHAT, Client

pytestmark = pytest.mark.anyio

AWKWARD = "<|im_start|>Grüße,\u0000 🚲e\u0301\r\n  語\u200d\ufffd<|im_end|> "


async def test_a_prompt_is_counted_as_usage_counts_it_and_comes_back_from_its_tokens(
    real: Client,
) -> None:
    async def posted(path: str, **body: Any) -> Any:
        response = await real.front.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    chat: dict[str, Any] = {"messages": [{"role": "user", "content": AWKWARD}]}
    prompt = (await posted("/apply-template", **chat))["prompt"]
    assert AWKWARD.strip() in prompt
    tokens = (await posted("/tokenize", content=prompt, add_special=True))["tokens"]
    assert await posted("/detokenize", tokens=tokens) == {"content": prompt}
    counted = await posted(f"{CHAT}/input_tokens", **chat)
    usage = (await posted(CHAT, **chat, max_tokens=1))["usage"]
    assert counted["input_tokens"] == usage["prompt_tokens"] == len(tokens)
    pieces = (await posted("/tokenize", content=AWKWARD, with_pieces=True))["tokens"]
    raw = [one["piece"] for one in pieces]
    assert any(isinstance(piece, list) for piece in raw)
    shown = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in raw)
    assert shown.decode() == AWKWARD
