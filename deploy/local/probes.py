"""Whether a cluster is ready, asked over HTTP as any client could ask."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

ANSWER_S = 0.5
BODY_BYTES_MAX = 4 << 20


def get(url: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when there is no whole answer within ANSWER_S."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def lists_a_loaded_model(body: bytes) -> bool:
    """Whether the body of /v1/models names a model whose status is loaded."""
    try:
        models: Any = json.loads(body)["data"]
        return any(model["status"]["value"] == "loaded" for model in models)
    except (ValueError, KeyError, TypeError):
        return False


def is_ready(nodes: Sequence[str], *, needs_model: bool, api_key: str = "") -> bool:
    """Whether every node (by URL) answers /ready with 200 and the first one lists a loaded model.

    `needs_model` is False for a cluster without workers, `api_key` empty for an open API.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    if not all(get(url, "/ready", headers)[0] == 200 for url in nodes):
        return False
    if not (needs_model and nodes):
        return True
    status, body = get(nodes[0], "/v1/models", headers)
    return status == 200 and lists_a_loaded_model(body)
