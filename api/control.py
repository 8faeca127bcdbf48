"""``POST /v1/chat/completions/control``: what may be done to an answer that is being generated."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from api import requests
from api.fields import Fields
from api.json_body import parse_object
from api.node import Node, NodeDep
from api.problems import RequestInvalid
from replay.log_values import ThoughtEnd

MESSAGES = {
    ThoughtEnd.GONE: "no active completion for this id",
    ThoughtEnd.DISABLED: "reasoning control not enabled for this completion",
}

router = APIRouter()


@router.post("/v1/chat/completions/control")
async def control(request: Request, node: NodeDep) -> Response:
    """Ends the thought of a live completion, whichever worker it runs on."""
    fields = Fields(parse_object(await requests.read_body(request, node.settings.body_bytes_max)))
    if not (completion_id := fields.text("id")):
        raise RequestInvalid("missing completion id")
    if fields.text("action") != "reasoning_end":
        raise RequestInvalid("unknown control action")
    found = await _end_thought(node, requests.tenant_of(request), completion_id)
    if found is ThoughtEnd.ORDERED:
        return JSONResponse({"success": True})
    return JSONResponse({"success": False, "message": MESSAGES[found]})


async def _end_thought(node: Node, tenant: str, completion_id: str) -> ThoughtEnd:
    if not requests.may_exist(completion_id):
        return ThoughtEnd.GONE
    ref = await node.log.completion(completion_id)
    if ref is not None and ref.tenant == tenant:
        found = await node.log.end_thought(ref)
        if found is not ThoughtEnd.GONE:
            return found
    node.recovery.check()  # Redis may have just forgotten it
    return ThoughtEnd.GONE
