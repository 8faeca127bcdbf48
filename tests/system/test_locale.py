"""A host whose locale writes 0,5: every number on the wire still has a point."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster_client import CHAT, Client, client_of
from conftest import made

from deploy.bootstrap import ROOT
from deploy.local.cluster import Cluster

pytestmark = pytest.mark.anyio

GERMAN = "de_DE"
TOKENS_MAX = 120
"""The longest two numbers that a schema allows have some 80 characters: nothing cuts them."""
HALF = """
import ctypes
import sys
from pathlib import Path
from inference_worker.llama_engine import LlamaSettings, open_llama_engine

def half():
    shown = ctypes.create_string_buffer(8)
    ctypes.CDLL(None).snprintf(shown, 8, b"%.1f", ctypes.c_double(0.5))
    return shown.value.decode()

before = half()
open_llama_engine(LlamaSettings(Path(sys.argv[1]), "m", slots=1, context_tokens=256)).close()
print(before, half())
"""


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a process that speaks German."""
    compiler, sources = shutil.which("localedef"), Path("/usr/share/i18n/locales") / GERMAN
    if compiler is None or not sources.exists():
        pytest.skip("no localedef, or not what it compiles (Debian's package locales)")
    folder = tmp_path_factory.mktemp("locales")
    compiled = folder / f"{GERMAN}.UTF-8"
    subprocess.run([compiler, "-i", GERMAN, "-f", "UTF-8", str(compiled)], check=True, timeout=60)
    return {
        "LOCPATH": str(folder),
        "LC_ALL": compiled.name,
        "LC_NUMERIC": compiled.name,
        "PYTHONPATH": str(Path(__file__).parent / "german"),
    }


@pytest.fixture(scope="module")
def cluster(
    german: Mapping[str, str], model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster all of whose processes do, with the real model."""
    arguments = ("--engine", "llama", "--model", str(model_file))
    folder = tmp_path_factory.mktemp("german")
    with made(folder, *arguments, REPLAY_THREADS="1", **german) as running:
        yield running


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """A client of it."""
    async with client_of(cluster) as made_client:
        yield made_client


def floats_in(value: Any) -> int:
    """How many fractions a JSON value has."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return sum(map(floats_in, inner))
    return isinstance(value, float)


async def test_every_number_that_a_process_writes_has_a_point(client: Client) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Say 0.5."}],
        "temperature": 0.7,
        "top_p": 0.95,
        "min_p": 0.05,
        "seed": 1,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 2,
        "timings_per_token": True,
    }
    whole = (await client.front.post(CHAT, json=asked)).json()
    assert floats_in(whole["timings"]) > 2 and floats_in(whole["choices"]) > 8
    streamed = (await client.front.post(CHAT, json={**asked, "stream": True})).text
    frames = [line.removeprefix("data: ") for line in streamed.splitlines() if "{" in line]
    assert sum(floats_in(json.loads(frame)) for frame in frames) > 8
    models = (await client.front.get("/v1/models")).json()
    props = (await client.front.get("/props")).json()
    assert models["data"] and floats_in(props) > 0


async def test_numbers_that_llama_cpp_reads_and_makes_have_points(client: Client) -> None:
    async def said(**fields: Any) -> str:
        asked = {"messages": [{"role": "user", "content": "A half?"}], "temperature": 0.5, **fields}
        response = await client.front.post(CHAT, json={**asked, "max_tokens": TOKENS_MAX})
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    assert re.fullmatch(r"0\.\d{3}", await said(grammar='root ::= "0." [0-9]{3}'))
    schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    numbers = json.loads(await said(json_schema=schema))
    assert len(numbers) == 2
    bias = {"logit_bias": {"the": -0.5}, "min_p": 0.05, "top_p": 0.5, "typical_p": 0.99}
    assert await said(**bias, seed=1, xtc_probability=0.5, mirostat=2)


async def test_numbers_of_a_vector_are_as_many_as_its_bytes(client: Client) -> None:
    async def vector(encoding: str) -> Any:
        asked = {"input": "0.5", "encoding_format": encoding}
        response = await client.front.post("/v1/embeddings", json=asked)
        return response.json()["data"][0]["embedding"]

    raw = b64decode(await vector("base64"))
    packed = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert await vector("float") == pytest.approx(list(packed))


def test_c_code_beside_the_model_writes_points(german: Mapping[str, str], model_file: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", HALF, str(model_file)],
        env={**os.environ, **german},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout.split() == ["0,5", "0.5"]
