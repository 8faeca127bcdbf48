"""What the documents say of the project is so: names, links, commands, tables, words."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from replay import keys
from replay.cli.replayctl import build
from replay.identity import Conversation, SessionRef
from replay.records import SessionRecord

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api/", "inference_worker/", "replay/")

BANNED_WORD = re.compile(r"_(manager|utils?|helpers?)\b|\b_*(do|handle|manage|process)_", re.I)
BANNED_CLASS = re.compile(r"(Manager|Helper|Utils?)$")
THEIRS = {"handle_exit"}
"""Names that a base class from elsewhere gives: uvicorn's."""

REGISTRIES = re.compile(r"(py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.(?:org|com))")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


@cache
def tracked() -> tuple[str, ...]:
    """Every file that git knows."""
    command = ["git", "ls-files", "-z"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    return tuple(one for one in answer.stdout.decode().split("\0") if (ROOT / one).is_file())


def text_of(document: str) -> str:
    """A document's text."""
    return (ROOT / document).read_text("utf-8")


def documents() -> list[str]:
    """The Markdown files."""
    return [one for one in tracked() if one.endswith(".md")]


def section(document: str, title: str) -> str:
    """What stands below a heading, up to the next of any level."""
    _, _, rest = text_of(document).partition(f"# {title}\n")
    assert rest, f"{document} has no section {title!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def names_in_first_column(table: str) -> list[str]:
    """What stands in backticks in the first column of a table."""
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def folders(depth: int) -> set[str]:
    """The folders with tracked files, their paths as long as this, hidden ones left out."""
    parents = [Path(one).parts[:-1] for one in tracked()]
    found = {"/".join(parts[:depth]) for parts in parents if len(parts) >= depth}
    return {one for one in found if not one.startswith(".")}


def tree() -> list[str]:
    """The folders that README's tree draws."""
    found: list[str] = []
    for line in section("README.md", "Where things are").splitlines():
        if drawn := re.match(r"( *)([\w.]+)/", line):
            inner = found and drawn[1]
            found.append(f"{_top(found)}/{drawn[2]}" if inner else drawn[2])
    return found


def _top(found: list[str]) -> str:
    return [one for one in found if "/" not in one][-1]


def test_the_tree_is_what_stands_on_disk() -> None:
    assert [one for one in tree() if not (ROOT / one).is_dir()] == []
    assert folders(1) == {one for one in tree() if "/" not in one}


def test_the_tree_shows_every_part_of_a_package() -> None:
    inner = {one for one in folders(2) if one.startswith(PACKAGES)}
    assert inner == {one for one in tree() if "/" in one}


def test_the_kinds_of_tests_that_the_tree_names_are_there() -> None:
    [line] = re.findall(r"^tests/.*$", section("README.md", "Where things are"), re.MULTILINE)
    named = re.findall(r"(\w+)/", line.removeprefix("tests/"))
    assert named and [one for one in named if f"tests/{one}" not in folders(2)] == []


@pytest.mark.parametrize("document", documents())
def test_every_link_leads_somewhere(document: str) -> None:
    prose = CODE.sub("", text_of(document))
    local = [one for one in LINK.findall(prose) if not one.startswith(("http", "mailto:", "#"))]
    here = (ROOT / document).parent
    known = {ROOT / one for one in tracked()}
    missing = [one for one in local if (here / one.partition("#")[0]).resolve() not in known]
    assert missing == []


def banned(source: str) -> Iterator[str]:
    """The functions and classes of a source whose names the glossary does not allow."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and BANNED_CLASS.search(node.name):
            yield node.name
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and BANNED_WORD.search(node.name)
            and node.name not in THEIRS
        ):
            yield node.name


def test_the_glossarys_banned_words_are_in_no_name() -> None:
    sources = [one for one in tracked() if one.endswith(".py") and one.startswith(PACKAGES)]
    assert len(sources) > 40
    found = {one: names for one in sources if (names := list(banned(text_of(one))))}
    assert found == {}
    assert not [one for one in sources if re.search(r"(utils|helpers?|manager)\.py$", one)]


def test_a_banned_word_is_found() -> None:
    source = "class LeaseManager: ...\ndef _do_it(): ...\ndef handle_x(): ...\ndef redo(): ..."
    assert list(banned(source)) == ["LeaseManager", "_do_it", "handle_x"]


def commands(group: Any, prefix: str = "") -> Iterator[str]:
    """Every command of the command line, as it is typed."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name


def words_after(command: str, document: str) -> Iterator[list[str]]:
    """In the document's code: the plain words after a command, up to an option or argument."""
    for code in CODE.findall(text_of(document)):
        for line in code.strip("`").splitlines():
            for rest in re.findall(rf"(?:^|[\s/]){command}((?: +[a-z]+)*)", line.partition("#")[0]):
                yield rest.split()


@pytest.mark.parametrize("document", documents())
def test_every_replayctl_command_that_is_named_exists(document: str) -> None:
    known = list(commands(typer.main.get_command(build())))
    assert "sessions ls" in known
    named = [" ".join(words[:2]) for words in words_after("replayctl", document) if words]
    assert [one for one in named if one not in known] == []


@pytest.mark.parametrize("document", documents())
def test_every_verb_of_make_that_is_named_exists(document: str) -> None:
    verbs = re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE)
    named = {word for words in words_after("make", document) for word in words}
    assert named - set(verbs) == set()


def test_make_help_lists_every_verb() -> None:
    verbs = re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE)
    listed = re.findall(r"^([a-z]+):.*  ## ", text_of("Makefile"), re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)[0].split()
    assert verbs == listed and sorted(phony) == sorted(verbs)


def test_nothing_tracked_names_this_machine_or_a_registry() -> None:
    places = [re.escape(str(one)) for one in (ROOT, Path.home()) if one != Path("/")]
    here = re.compile(rf"(?<![\w.])(?:{'|'.join(places)})\b")
    found = []
    for name in tracked():
        text = (ROOT / name).read_bytes().decode("utf-8", "replace")
        found += [(name, one) for one in here.findall(text) + REGISTRIES.findall(text)]
    assert found == []
    assert '"resolved"' not in text_of("webui/package-lock.json")


def test_the_changelog_has_what_is_unreleased() -> None:
    _, _, unreleased = text_of("CHANGELOG.md").partition("\n## Unreleased\n")
    assert re.search(r"^- \S", unreleased.partition("\n## ")[0], re.MULTILINE)


def rendered() -> dict[str, set[str]]:
    """Each function of ``replay.keys`` and the keys it formats, as PROTOCOL.md writes them."""
    conversation = Conversation("tenant", "conv")
    words = {
        "conversation": [conversation],
        "ref": [SessionRef("tenant", "conv", "model", 0)],
        "name": ["name"],
        "key": ["key"],
        "nonce": ["nonce"],
        "model": ["model"],
        "worker_id": ["id", "worker"],
        "node_id": ["id", "node"],
        "completion_id": ["id"],
        "shard": [0],
    }
    found = {}
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        if function.__module__ == keys.__name__ and not name.startswith("_"):
            taken = list(inspect.signature(function).parameters)
            choices = zip(*(words[one] * 2 for one in taken), strict=False) if taken else [()]
            found[name] = {_as_written(function(*choice)) for choice in choices}
    return found


def _as_written(key: str) -> str:
    """A key with the words of the table for what was put in."""
    key = re.sub(r"\{\d+\}", "{0..15}", key)
    return key.replace("{tenant:conv}", "{tenant:base}").replace("model:0", "model:epoch")


def test_the_table_of_keys_is_what_the_code_formats() -> None:
    table = names_in_first_column(section("PROTOCOL.md", "Keys"))
    made = rendered()
    assert len(table) == len(set(table)) > 12
    unknown = {n for n, k in made.items() if not any(t.startswith(o) for t in table for o in k)}
    assert unknown == set(), "functions of replay.keys that PROTOCOL.md does not name"
    everything = {one for made_by in made.values() for one in made_by}
    assert set(table) - everything == set(), "keys of PROTOCOL.md that nothing formats"


def test_the_table_of_the_record_is_what_the_code_reads() -> None:
    table = names_in_first_column(section("PROTOCOL.md", "The session record"))
    known = {field.name for field in fields(SessionRecord)}
    assert len(table) == len(set(table))
    assert set(table) == known
