"""What node and worker both say of a response of OpenAI's Responses API. Pure."""

from __future__ import annotations

from typing import Any

from replay.records import SessionRecord
from replay.request import GenerationRequest


def response_of(
    record: SessionRecord, request: GenerationRequest, status: str, **more: Any
) -> dict[str, Any]:
    """The response, as far as its record tells."""
    return {
        "id": record.completion_id,
        "object": "response",
        "created_at": record.created_ms // 1000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": record.model,
        "output": [],
        "usage": None,
        **more,
        **request.render.response,
    }
