"""A GPU, or the reason why nothing here can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.engine.sides import MODEL_FILE


@pytest.fixture(scope="session")
def model_file() -> Path:
    """A model to compute: REPLAY_BENCH_MODEL, else the default one; skipped where no GPU is."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="no GPU: llama.cpp is not here")
    if not llama_cpp.llama_supports_gpu_offload():
        pytest.skip("no GPU: this machine has none, or llama.cpp was built without one")
    if not MODEL_FILE.is_file():
        pytest.skip(f"no model at {MODEL_FILE} (`make setup` obtains it)")
    return MODEL_FILE
