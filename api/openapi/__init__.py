"""The OpenAPI document: what a customer is handed. FastAPI finds the routes; the rest is said here.

Bodies are read by hand (``api/dialects``), since unknown fields are accepted and mistakes are told
in the dialect that the client speaks; so FastAPI cannot know them.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.openapi.answers import COMPONENTS, answers
from api.openapi.bodies import BODIES
from api.openapi.operation import TAGS, Operation
from api.openapi.operations import OPERATIONS
from api.openapi.parameters import PARAMETERS

ABOUT = """\
Answers of language models that outlive their connection. A POST with `X-Conversation-Id` (or an
`Idempotency-Key`) opens a *session*; its bytes can be read again from any offset, on any node,
until its retention ends.

Every dialect streams, resumes and stops alike: what a client gets are the bytes of the session's
log, and an offset counts these bytes. A response whose last chunk is missing was cut: go on with
`GET /v1/stream?conv_id=...&from=<bytes received>`.
"""

SECURITY: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of the application's routes; made once. Raises KeyError for an unknown one."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="replay-cluster", version=app.version, description=ABOUT, routes=app.routes, tags=TAGS
    )
    for path, methods in document["paths"].items():
        for method, found in methods.items():
            _complete(found, OPERATIONS[method.upper(), path])
    document["components"] = {**COMPONENTS, "securitySchemes": SECURITY}
    document["security"] = [{name: []} for name in SECURITY]
    return document


def _complete(found: dict[str, Any], operation: Operation) -> None:
    found["summary"] = operation.summary
    found["tags"] = [operation.tag]
    found["operationId"] = operation.id
    if operation.parameters:
        found["parameters"] = [PARAMETERS[name] for name in operation.parameters]
    if operation.body:
        body = BODIES[operation.body]
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body.schema, "examples": body.examples}},
        }
    found["responses"] = answers(operation)
    if operation.is_public:
        found["security"] = []
