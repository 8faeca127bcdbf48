"""The pinned requirements: what is in the files, and the rules that make them."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import bootstrap, pin
from deploy.pin import Pin

DEPLOY = pin.ROOT / "deploy"
DECLARED = pin.declared(tomllib.loads((pin.ROOT / "pyproject.toml").read_text()))


def made(name: str, *requires: str) -> Pin:
    return Pin(name, "1.0", [Requirement(text) for text in requires], source_only=False)


def pinned(file: str) -> dict[str, str]:
    """Names and versions of a requirements file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (DEPLOY / file).read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", sorted(pin.HEADERS))
def test_every_pin_has_hashes_and_no_file_names_an_address(file: str) -> None:
    text = (DEPLOY / file).read_text()
    assert text.count("--hash=sha256:") >= len(pinned(file)) > 0
    assert not re.search(r"://|--index|--find-links|\.(com|org|io)\b", text)


@pytest.mark.parametrize("file", sorted(DECLARED))
def test_what_pyproject_asks_for_is_pinned_within_its_bounds(file: str) -> None:
    everywhere = {name: version for each in pin.HEADERS for name, version in pinned(each).items()}
    for requirement in map(Requirement, DECLARED[file]):
        version = everywhere[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is stale: make pin"


def test_a_node_needs_no_engine() -> None:
    assert "llama-cpp-python" not in pinned("requirements.txt")
    assert "llama-cpp-python" in pinned("requirements-worker.txt")


def test_only_make_bench_brings_llama_server() -> None:
    assert list(pinned(bootstrap.BENCH_REQUIREMENTS)) == ["xllamacpp"]
    asked = [Requirement(text).name for file in DECLARED for text in DECLARED[file]]
    assert asked.count("xllamacpp") == 1


def test_no_package_is_pinned_twice() -> None:
    names = [name for file in pin.HEADERS for name in pinned(file)]
    assert len(names) == len(set(names))


def test_a_pin_goes_into_the_first_file_that_needs_it() -> None:
    pins = {p.name: p for p in (made("a", "shared"), made("b", "shared", "c"), made("shared"))}
    pins["c"] = made("c")
    files = pin.split({"one": ["a>=1"], "two": ["b"]}, pins)
    assert [p.name for p in files["one"]] == ["a", "shared"]
    assert [p.name for p in files["two"]] == ["b", "c"]


def test_extras_are_followed_and_others_are_not() -> None:
    pins = {
        "a": made("a", 'fast; extra == "speed"', 'slow; extra == "care"'),
        "fast": made("fast"),
        "slow": made("slow"),
    }
    assert pin.needed_by(["a[speed]"], pins) == {"a", "fast"}


def test_what_only_an_older_python_needs_is_not_left_out() -> None:
    requirement = 'backport; python_full_version < "3.11.3"'
    assert list(pin.left_out({"a": made("a", requirement)})) == ["backport"]
    assert not pin.left_out({"a": made("a", 'backport; python_version < "3.9"')})
    assert not pin.left_out({"a": made("a", 'backport; extra == "old"')})


def test_a_pin_is_written_with_its_marker_and_sorted_hashes() -> None:
    one = made("a")
    one.hashes, one.marker = {"bb", "aa"}, 'python_full_version < "3.11.3"'
    assert one.text() == (
        'a==1.0 ; python_full_version < "3.11.3" \\\n'
        "    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    )
