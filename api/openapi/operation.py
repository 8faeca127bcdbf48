"""What one route of the document is, and under which headings they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SESSIONS, OPENAI, ANTHROPIC, LLAMA, OPERATIONS_TAG = (
    "Sessions",
    "OpenAI",
    "Anthropic",
    "llama.cpp",
    "Operations",
)
TAGS = [
    {"name": OPENAI, "description": "Chat, completions, Responses and embeddings."},
    {"name": ANTHROPIC, "description": "Messages."},
    {"name": SESSIONS, "description": "Read again, find, follow and stop what was generated."},
    {"name": LLAMA, "description": "What llama.cpp's server offers beside."},
    {"name": OPERATIONS_TAG, "description": "What the cluster is and does."},
]

KEYED = (401, 403)
READ = (400, *KEYED, 503)
ASK = (400, *KEYED, 413, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. ``body`` names one of ``BODIES``; without ``answer`` it only refuses."""

    tag: str
    id: str
    summary: str
    answer: str | None
    errors: tuple[int, ...] = READ
    body: str = ""
    parameters: tuple[str, ...] = ()
    example: Any = None
    events: str = ""
    status: int = 200
    names_session: bool = False
    is_public: bool = False

    @property
    def is_anthropic(self) -> bool:
        """Whether errors stand in Anthropic's envelope."""
        return self.tag == ANTHROPIC
