"""Every route of the document: what it is for, what it takes, what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.openapi.cluster_operations import ABOUT_THE_CLUSTER
from api.openapi.examples import CHUNKS, FOLDED, MESSAGE, SESSION
from api.openapi.operation import (
    ANTHROPIC,
    ASK,
    KEYED,
    LLAMA,
    OPENAI,
    READ,
    SESSIONS,
    Operation,
)

_GENERATE = (400, *KEYED, 409, 410, 413, 422, 429, 500, 503)
_OPENS = (
    "X-Conversation-Id",
    "Idempotency-Key",
    "if_busy",
    "X-Message-Id",
    "X-Stream-Prefix-Chars",
)


def _generates(
    tag: str, name: str, summary: str, body: str, example: Any, events: str
) -> Operation:
    return Operation(
        tag,
        name,
        summary,
        "The answer: the session's bytes as they come, or folded into one object.",
        _GENERATE,
        body,
        _OPENS,
        example,
        events,
        names_session=True,
    )


def _refuses(name: str, summary: str, status: int, **more: Any) -> Operation:
    return Operation(
        LLAMA, name, summary, None, (401, 403, status) if status != 403 else KEYED, **more
    )


_ENDED = Operation(
    OPENAI,
    "deleteResponse",
    "Delete a response",
    "It is gone.",
    (400, *KEYED, 404, 503),
    parameters=("response_id",),
    example={"id": "resp_4Vn0", "object": "response", "deleted": True},
)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): _generates(
        OPENAI, "createChatCompletion", "Chat", "chat", FOLDED, CHUNKS
    ),
    ("POST", "/v1/completions"): _generates(
        OPENAI,
        "createCompletion",
        "Complete a text",
        "completion",
        {"choices": [{"text": " the Nile.", "index": 0, "finish_reason": "stop"}]},
        'data: {"choices":[{"text":" the","index":0,...}],...}\n\ndata: [DONE]\n\n',
    ),
    ("POST", "/v1/responses"): _generates(
        OPENAI,
        "createResponse",
        "Create a response",
        "response",
        {"id": "resp_4Vn0", "object": "response", "status": "completed", "output": []},
        'event: response.output_text.delta\ndata: {"delta":"The","sequence_number":4,...}\n\n',
    ),
    ("GET", "/v1/responses/{response_id}"): Operation(
        OPENAI,
        "readResponse",
        "Read a response",
        "The response, so far where it is not complete; or its events.",
        (400, *KEYED, 404, 503),
        parameters=("response_id", "stream", "starting_after"),
        example={"id": "resp_4Vn0", "object": "response", "status": "in_progress", "output": []},
        events='event: response.completed\ndata: {"sequence_number":12,...}\n\n',
    ),
    ("DELETE", "/v1/responses/{response_id}"): _ENDED,
    ("GET", "/v1/responses/{response_id}/input_items"): Operation(
        OPENAI,
        "listResponseInputItems",
        "List what a response was asked",
        "A page of the items.",
        (400, *KEYED, 404, 503),
        parameters=("response_id", "after", "limit", "order"),
        example={"object": "list", "data": [MESSAGE], "has_more": False},
    ),
    ("POST", "/v1/responses/{response_id}/cancel"): Operation(
        OPENAI,
        "cancelResponse",
        "Cancel a response",
        "It is cancelled, or had ended.",
        (400, *KEYED, 404, 503),
        parameters=("response_id",),
        example={"id": "resp_4Vn0", "object": "response", "status": "cancelled", "output": []},
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(
        OPENAI,
        "countResponseTokens",
        "Count a response's input",
        "How many tokens it has.",
        ASK,
        "response",
        example={"object": "response.input_tokens", "input_tokens": 34},
    ),
    ("POST", "/v1/chat/completions/input_tokens"): Operation(
        OPENAI,
        "countChatTokens",
        "Count a chat's tokens",
        "How many tokens its prompt has.",
        ASK,
        "chat",
        example={"object": "response.input_tokens", "input_tokens": 34},
    ),
    ("POST", "/v1/chat/completions/control"): Operation(
        OPENAI,
        "controlChatCompletion",
        "End the thought of a live completion",
        "Whether it was told to.",
        READ,
        "control",
        example={"success": True},
    ),
    ("POST", "/v1/embeddings"): Operation(
        OPENAI,
        "createEmbedding",
        "Vectors of texts",
        "One vector for each input.",
        (*ASK, 501),
        "embeddings",
        example={
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.03]}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        },
    ),
    ("POST", "/v1/messages"): _generates(
        ANTHROPIC,
        "createMessage",
        "Create a message",
        "messages",
        {
            "id": "msg_4Vn0",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "The Nile."}],
            "stop_reason": "end_turn",
        },
        'event: content_block_delta\ndata: {"type":"content_block_delta",...}\n\n',
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        ANTHROPIC,
        "countMessageTokens",
        "Count a message's tokens",
        "How many tokens it has.",
        ASK,
        "messages",
        example={"input_tokens": 34},
    ),
    ("GET", "/v1/stream"): Operation(
        SESSIONS,
        "readStream",
        "Read a session's bytes from any offset, then live",
        "The bytes that every other reader gets. The path may also name it: `/v1/stream/<name>`.",
        (400, *KEYED, 404, 409, 410, 416, 503),
        parameters=("conv_id", "from", "epoch", "ids", "view", "link", "Last-Event-ID"),
        example={"message": {"role": "assistant", "content": "The Nile"}, "offset": 2048},
        events=CHUNKS,
        names_session=True,
    ),
    ("DELETE", "/v1/stream"): Operation(
        SESSIONS,
        "stopStream",
        "Stop a session, and erase it unless `keep`",
        "It has ended, or there was none.",
        (400, *KEYED, 409, 503),
        parameters=("conv_id", "epoch", "keep", "link"),
        status=204,
    ),
    ("POST", "/v1/streams/lookup"): Operation(
        SESSIONS,
        "lookupStreams",
        "Which of these conversations have sessions",
        "The sessions that there are.",
        (*READ, 413),
        "names",
        example=[SESSION],
    ),
    ("POST", "/v1/streams/events"): Operation(
        SESSIONS,
        "feedStreams",
        "Follow what becomes of these conversations",
        "Events: session, progress, ended, gone.",
        (*READ, 413),
        "names",
        events='event: progress\ndata: {"conversation_id":"trip","tokens":42,...}\n\n',
    ),
    ("POST", "/v1/streams/links"): Operation(
        SESSIONS,
        "createLink",
        "A URL that reads or stops one session without a key",
        "The link.",
        (400, *KEYED, 404, 409, 410, 413, 501, 503),
        "link",
        example={"url": "/v1/stream?conv_id=trip&epoch=1795386858552&link=...", "method": "GET"},
    ),
    ("POST", "/completion"): _generates(
        LLAMA,
        "createNativeCompletion",
        "Complete a text, in llama.cpp's form",
        "native",
        {"index": 0, "content": " the Nile.", "stop": True, "stop_type": "eos"},
        'data: {"index":0,"content":" the","tokens":[260],"stop":false,...}\n\n',
    ),
    ("POST", "/infill"): _generates(
        LLAMA,
        "createInfill",
        "Fill in between two texts",
        "infill",
        {"index": 0, "content": "return a + b", "stop": True, "stop_type": "eos"},
        'data: {"index":0,"content":"return","tokens":[260],"stop":false,...}\n\n',
    ),
    ("POST", "/tokenize"): Operation(
        LLAMA,
        "tokenize",
        "Tokens of a text",
        "The tokens.",
        ASK,
        "tokenize",
        example={"tokens": [7]},
    ),
    ("POST", "/detokenize"): Operation(
        LLAMA,
        "detokenize",
        "Text of tokens",
        "The text.",
        ASK,
        "detokenize",
        example={"content": "rivers"},
    ),
    ("POST", "/apply-template"): Operation(
        LLAMA,
        "applyTemplate",
        "The prompt that a chat comes to",
        "The text.",
        ASK,
        "chat",
        example={"prompt": "<|im_start|>user\nName three rivers.<|im_end|>\n"},
    ),
    **{
        ("POST", path): Operation(
            LLAMA,
            name,
            "Vectors of texts, in llama.cpp's form",
            "One entry for each input.",
            (*ASK, 501),
            "embeddings",
            example=[{"index": 0, "embedding": [[0.12, -0.03]]}],
        )
        for path, name in (("/embedding", "embed"), ("/embeddings", "embedAll"))
    },
    ("POST", "/v1/rerank"): Operation(
        LLAMA,
        "rerank",
        "How relevant documents are to a query",
        "The documents' scores.",
        (*ASK, 501),
        "rerank",
        example={"results": [{"index": 0, "relevance_score": 0.93}]},
    ),
    ("GET", "/metrics"): _refuses("readMetrics", "Nothing is counted here", 501),
    ("GET", "/lora-adapters"): Operation(
        LLAMA,
        "listAdapters",
        "LoRA adapters of a model",
        "The adapters, and how much of each counts where a request names none.",
        READ,
        parameters=("model",),
        example=[
            {
                "id": 0,
                "path": "/style.gguf",
                "scale": 0.5,
                "task_name": "",
                "prompt_prefix": "",
            }
        ],
    ),
    ("POST", "/lora-adapters"): Operation(
        LLAMA,
        "scaleAdapters",
        "Set how much of each adapter counts where a request names none",
        "It counts, at all workers.",
        (*READ, 413),
        "adapters",
        parameters=("model",),
        example={"success": True},
    ),
    ("POST", "/props"): _refuses("changeProps", "Settings are the operator's", 501),
    ("POST", "/v1/audio/transcriptions"): _refuses("createTranscription", "No model hears", 501),
    ("POST", "/v1/responses/compact"): _refuses("compactResponse", "Nothing is compacted", 501),
    ("POST", "/v1/systemone"): _refuses("decide", "No model is one of decisions", 501),
    ("GET", "/tools"): _refuses("listTools", "Switched off", 403),
    ("POST", "/tools"): _refuses("runTool", "Switched off", 403),
    ("GET", "/cors-proxy"): _refuses("proxyGet", "Switched off", 403),
    ("POST", "/cors-proxy"): _refuses("proxyPost", "Switched off", 403),
    **ABOUT_THE_CLUSTER,
}
