"""What is not offered says so."""

from __future__ import annotations

import pytest

from .wire import Node, error_of


@pytest.mark.clause("ABSENT-1")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v1/audio/transcriptions", "does not support audio"),
        ("/audio/transcriptions", "does not support audio"),
        ("/v1/responses/compact", "does not compact"),
        ("/v1/systemone", "not a decision model"),
        ("/props", "global properties"),
    ],
)
def test_what_no_model_here_can_is_501(node: Node, path: str, reason: str) -> None:
    response = node.http.post(path, content=b"anything")
    assert response.status_code == 501
    assert error_of(response)["type"] == "not_supported_error"
    assert reason in error_of(response)["message"]


@pytest.mark.clause("ABSENT-1")
def test_metrics_are_501(node: Node) -> None:
    response = node.http.get("/metrics")
    assert response.status_code == 501
    assert error_of(response)["type"] == "not_supported_error"


@pytest.mark.clause("ABSENT-1")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/tools", "/cors-proxy?url=http%3A%2F%2F127.0.0.1%2F"])
def test_what_a_node_does_for_nobody_is_403(node: Node, method: str, path: str) -> None:
    response = node.http.request(method, path)
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "feature_disabled"


@pytest.mark.clause("LORA-1")
def test_there_are_no_adapters_and_none_to_scale(node: Node) -> None:
    assert node.http.get("/lora-adapters").json() == []
    assert node.http.post("/lora-adapters", json=[]).json() == {"success": True}
    for body in ({}, [{"id": 0, "scale": 1.0}]):
        response = node.http.post("/lora-adapters", json=body)
        assert response.status_code == 400, body
        assert error_of(response)["message"]
