"""What the operator says of GPUs and memory, and what llama.cpp is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine_recorder import recording
from pydantic import ValidationError

from inference_worker.config import WorkerSettings
from inference_worker.engine import EngineFailed, SequenceSpec
from inference_worker.hardware import FlashAttention, Hardware, KvType, tensor_split_of
from replay.request import SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")
llama_params = pytest.importorskip("inference_worker.llama_params", reason="no llama_cpp here")

MODELS_DIR = Path(os.environ.get("REPLAY_MODELS_DIR", Path(__file__).parents[2] / ".models"))
MODEL_PATH = MODELS_DIR / "smollm2-135m-instruct.gguf"


def test_settings_become_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "REPLAY_PREFILL_THREADS": "3",
        "REPLAY_GPU_LAYERS": "5",
        "REPLAY_MAIN_GPU": "1",
        "REPLAY_SPLIT_MODE": "row",
        "REPLAY_TENSOR_SPLIT": "3, 1",
        "REPLAY_FLASH_ATTENTION": "true",
        "REPLAY_KV_TYPE_K": "q8_0",
        "REPLAY_KV_TYPE_V": "q4_0",
        "REPLAY_LOAD_MODE": "mlock",
    }
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings().hardware() == Hardware(
        3, 5, 1, "row", (3.0, 1.0), "on", "q8_0", "q4_0", "mlock"
    )


@pytest.mark.parametrize("text", ["a", "1,", "-1", "nan", "inf", "0,0"])
def test_shares_of_gpus_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="GPU"):
        tensor_split_of(text)
    with pytest.raises(ValidationError, match="GPU"):
        WorkerSettings(tensor_split=text)


@pytest.mark.parametrize(("gpu_layers", "chunk_tokens"), [(-1, 512), (3, 512), (0, 128)])
def test_a_gpu_is_fed_longer_chunks(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, gpu_layers: int, chunk_tokens: int
) -> None:
    monkeypatch.setattr(llama_params.llama_cpp, "llama_supports_gpu_offload", lambda: True)
    settings = llama_engine.LlamaSettings(
        model_file, "m", slots=1, context_tokens=256, hardware=Hardware(gpu_layers=gpu_layers)
    )
    engine = llama_engine.open_llama_engine(settings)
    try:
        assert engine.prefill_chunk_tokens == chunk_tokens
        assert engine.model.batch_invariant is (gpu_layers == 0)
    finally:
        engine.close()


def test_a_quantized_cache_names_what_it_needs() -> None:
    with pytest.raises(ValidationError, match="REPLAY_FLASH_ATTENTION=on"):
        WorkerSettings(kv_type_v="q8_0", flash_attention="off")
    assert WorkerSettings(kv_type_v="q8_0").hardware().kv_type_v == "q8_0"
    assert WorkerSettings(kv_type_k="q8_0", flash_attention="off").kv_type_k == "q8_0"


@pytest.mark.parametrize(
    ("text", "read"),
    [("true", "on"), ("1", "on"), ("On", "on"), ("False", "off"), ("0", "off"), ("AUTO", "auto")],
)
def test_a_switch_of_three_is_set_as_one_of_two_too(
    monkeypatch: pytest.MonkeyPatch, text: str, read: str
) -> None:
    monkeypatch.setenv("REPLAY_FLASH_ATTENTION", text)
    assert WorkerSettings().flash_attention == read


@pytest.mark.parametrize(
    ("keys", "values", "threads", "decided"),
    [
        ("f16", "f16", 1, "on"),
        ("f32", "f32", 1, "off"),
        ("f16", "f16", 2, "off"),
        ("f32", "f16", 1, "off"),
        ("q8_0", "f16", 1, "off"),
        ("bf16", "bf16", 1, "off"),
        ("f16", "q8_0", 2, "on"),
    ],
)
def test_on_a_cpu_flash_attention_is_on_where_it_is_exact_and_fast(
    keys: KvType, values: KvType, threads: int, decided: FlashAttention
) -> None:
    hardware = llama_params.decided(Hardware(kv_type_k=keys, kv_type_v=values), threads)
    assert hardware.flash_attention == decided
    assert llama_params.is_batch_invariant(hardware, threads)


def test_flash_attention_that_was_asked_for_is_on_and_known_to_divide_keys() -> None:
    for values in ("f16", "f32"):
        wanted = Hardware(flash_attention="on", kv_type_v=values)
        assert llama_params.decided(wanted, 2) == wanted
        assert llama_params.is_batch_invariant(wanted, 1)
        assert not llama_params.is_batch_invariant(wanted, 2)
    unwanted = Hardware(flash_attention="off")
    assert llama_params.decided(unwanted, 1) == unwanted


def test_on_a_gpu_flash_attention_is_llama_cpps_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_params.llama_cpp, "llama_supports_gpu_offload", lambda: True)
    decided = [llama_params.decided(Hardware(gpu_layers=layers), 2) for layers in (-1, 0)]
    assert [llama_params.context_params(one, 2).flash_attn_type for one in decided] == [-1, 0]


def test_llama_cpp_is_told() -> None:
    hardware = Hardware(3, 5, 1, "row", (3.0, 1.0), "on", "q8_0", "q4_0", "mlock")
    model, context = llama_params.model_params(hardware), llama_params.context_params(hardware, 2)
    assert (model.n_gpu_layers, model.main_gpu, model.split_mode, model.load_mode) == (5, 1, 2, 2)
    assert [model.tensor_split[place] for place in range(3)] == [3.0, 1.0, 0.0]
    assert (context.n_threads, context.n_threads_batch) == (2, 3)
    assert (context.flash_attn_type, context.type_k, context.type_v) == (1, 8, 2)


def test_more_gpus_than_llama_cpp_knows_are_refused() -> None:
    with pytest.raises(EngineFailed, match="GPUs at most"):
        llama_params.model_params(Hardware(tensor_split=(1.0,) * 1000))


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware(kv_type_k="q8_0", kv_type_v="bf16", load_mode="none"),
        Hardware(kv_type_k="q4_0", kv_type_v="q4_0", prefill_threads=2),
    ],
    ids=["keys", "both"],
)
def test_a_model_answers_on_it(hardware: Hardware) -> None:
    if not MODEL_PATH.exists():
        pytest.skip("the default model is not here (make setup obtains it)")
    settings = llama_engine.LlamaSettings(
        MODEL_PATH, "m", slots=1, context_tokens=256, threads=1, hardware=hardware
    )
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        prompt = tuple(recorder.engine.prompt_tokens([{"role": "user", "content": "Hello."}]))
        greedy = SamplingParams(seed=1, temperature=0, ignore_eos=True)
        [tokens] = recorder.run(SequenceSpec("s", prompt, sampling=greedy, max_tokens=4))
    assert len(tokens) == 4
