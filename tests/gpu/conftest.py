"""A GPU, or the reason why nothing here can run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.bootstrap import MODEL, models_dir


@pytest.fixture(scope="session")
def model_file() -> Path:
    """A model to compute: REPLAY_GPU_MODEL, else the default one; skipped where no GPU is."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="no GPU: llama.cpp is not here")
    if not llama_cpp.llama_supports_gpu_offload():
        pytest.skip("no GPU: this machine has none, or llama.cpp was built without one")
    file = Path(os.environ.get("REPLAY_GPU_MODEL", models_dir() / f"{MODEL}.gguf"))
    if not file.is_file():
        pytest.skip(f"no model at {file} (`make setup` obtains it)")
    return file
