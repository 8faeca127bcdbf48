"""The routes that tell what the cluster is and does, and change what its slots hold."""

from __future__ import annotations

from collections.abc import Mapping

from api.openapi.operation import ASK, KEYED, OPERATIONS_TAG, READ, Operation

_SLOT = {"worker": "worker-1", "model": "smollm2"}

ABOUT_THE_CLUSTER: Mapping[tuple[str, str], Operation] = {
    ("GET", "/v1/models"): Operation(
        OPERATIONS_TAG,
        "listModels",
        "Models of all living workers",
        "The models.",
        (*KEYED, 503),
        example={"object": "list", "data": [{"id": "smollm2", "status": {"value": "loaded"}}]},
    ),
    ("GET", "/v1/models/{model_id}"): Operation(
        OPERATIONS_TAG,
        "readModel",
        "One model",
        "The model.",
        (*KEYED, 404, 503),
        parameters=("model_id",),
        example={"id": "smollm2", "object": "model", "status": {"value": "loaded"}},
    ),
    ("GET", "/props"): Operation(
        OPERATIONS_TAG,
        "readProps",
        "Settings, limits and features",
        "What a page needs to know first.",
        READ,
        parameters=("model",),
        example={"role": "router", "retention_s": 7200, "features": {"resume": True}},
    ),
    ("GET", "/slots"): Operation(
        OPERATIONS_TAG,
        "listSlots",
        "What every slot of the cluster does",
        "The slots.",
        READ,
        parameters=("model", "fail_on_no_slot"),
        example=[
            {
                **_SLOT,
                "id": 0,
                "n_ctx": 8192,
                "speculative": False,
                "is_processing": False,
                "n_prompt_tokens_cache": 384,
            }
        ],
    ),
    ("POST", "/slots/{id_slot}"): Operation(
        OPERATIONS_TAG,
        "changeSlot",
        "Save, restore or erase the cache of a slot",
        "What was done, at the worker that has the slot.",
        (*ASK, 501),
        "slot_file",
        parameters=("id_slot", "action"),
        example={
            **_SLOT,
            "id_slot": 0,
            "filename": "trip.slot",
            "n_saved": 384,
            "n_written": 8855212,
            "timings": {"save_ms": 31.5},
        },
    ),
    ("GET", "/health"): Operation(
        OPERATIONS_TAG,
        "health",
        "Whether the process is up",
        "It is.",
        (),
        example={"status": "ok"},
        is_public=True,
    ),
    ("GET", "/ready"): Operation(
        OPERATIONS_TAG,
        "ready",
        "Whether requests are to be sent here",
        "They are.",
        (503,),
        example={"status": "ready"},
        is_public=True,
    ),
}
