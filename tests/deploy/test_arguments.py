"""The launcher's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.arguments import parse


def test_without_arguments_it_is_two_nodes_a_worker_and_the_default_model() -> None:
    options = parse([], {})
    assert (options.port, options.api_nodes, options.workers) == (8080, 2, 1)
    assert options.redis_url is None
    assert options.engine == "llama"
    assert options.restart
    assert options.state_dir == Path(".state").absolute()
    assert [model.partition("=")[0] for model in options.models] == ["smollm2-135m-instruct"]


def test_a_model_without_a_name_is_named_by_its_file() -> None:
    options = parse(["--model", "/models/tiny.gguf", "--model", "big=/models/b.gguf"], {})
    assert options.models == ("tiny=/models/tiny.gguf", "big=/models/b.gguf")


def test_relative_models_are_made_absolute_for_the_children() -> None:
    assert parse(["--model", "tiny.gguf"], {}).models == (f"tiny={Path('tiny.gguf').absolute()}",)


def test_the_environment_gives_defaults_and_arguments_win() -> None:
    environment = {
        "REPLAY_REDIS_URL": "redis://there:6379",
        "REPLAY_ENGINE": "scripted",
        "REPLAY_MODELS": "a=/a.gguf,b=/b.gguf",
    }
    options = parse([], environment)
    assert (options.redis_url, options.engine) == ("redis://there:6379", "scripted")
    assert options.models == ("a=/a.gguf", "b=/b.gguf")
    options = parse(["--redis-url", "redis://here", "--engine", "llama"], environment)
    assert (options.redis_url, options.engine) == ("redis://here", "llama")


@pytest.mark.parametrize(
    "argv", [["--api-nodes", "-1"], ["--workers", "65"], ["--port", "x"], ["--engine", "gpt"]]
)
def test_impossible_values_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv, {})
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    told = capsys.readouterr().out
    for option in ("--port", "--api-nodes", "--workers", "--redis-url", "--state-dir", "--model"):
        assert option in told
