"""What llama.cpp's server, or a vendor, offers and this cluster does not: refused by name."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.problems import NotSupported

router = APIRouter()

DISABLED = {"error": {"message": "this feature is disabled", "type": "feature_disabled"}}
"""llama.cpp's answer where a flag has not switched a part of its page on; it has no code."""


@router.post("/v1/audio/transcriptions")
@router.post("/audio/transcriptions", include_in_schema=False)
async def create_transcription() -> None:
    """501: no model here hears."""
    raise NotSupported("The current model does not support audio input.")


@router.post("/v1/systemone")
async def decide() -> None:
    """501: no model here is one of decisions."""
    raise NotSupported("This model is not a decision model")


@router.post("/v1/responses/compact")
async def compact_response() -> None:
    """501: what the vendor makes of a conversation, only its own models read."""
    raise NotSupported("This server does not compact conversations.")


@router.get("/tools")
@router.post("/tools")
@router.get("/cors-proxy")
@router.post("/cors-proxy")
async def disabled() -> JSONResponse:
    """403: a node runs no tools and fetches nothing for anybody."""
    return JSONResponse(DISABLED, status_code=403)


@router.post("/props")
async def change_props() -> None:
    """501: settings are the operator's."""
    raise NotSupported("This server does not support changing global properties.")


@router.get("/metrics")
async def read_metrics() -> None:
    """501: a node counts nothing for anybody else."""
    raise NotSupported("This server does not support metrics endpoint.")
