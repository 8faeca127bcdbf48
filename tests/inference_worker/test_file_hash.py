import hashlib
from pathlib import Path

from inference_worker.file_hash import file_sha256


def test_a_file_that_was_replaced_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
