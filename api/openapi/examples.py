"""What the document shows as answers, where an example is longer than a line."""

from __future__ import annotations

from typing import Any

CHUNKS = (
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"The"}}],...}\n\n'
    "data: [DONE]\n\n"
)
FOLDED: dict[str, Any] = {
    "choices": [
        {
            "finish_reason": "stop",
            "index": 0,
            "message": {"role": "assistant", "content": "The Nile, the Rhine, the Volga."},
        }
    ],
    "object": "chat.completion",
    "usage": {"completion_tokens": 12, "prompt_tokens": 34, "total_tokens": 46},
}
MESSAGE: dict[str, Any] = {
    "id": "msg_4Vn0",
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "Name three rivers."}],
}
SESSION: dict[str, Any] = {
    "conversation_id": "trip",
    "is_done": False,
    "total_bytes": 2048,
    "started_at": 1795386858,
    "completed_at": 0,
    "state": "running",
    "reason": "",
    "epoch": 1795386858552,
    "model": "smollm2",
    "completion_id": "chatcmpl-4Vn0",
    "queue_position": None,
    "tokens": 7,
    "message_id": "",
    "prefix_chars": {"content": 0, "reasoning": 0},
}
