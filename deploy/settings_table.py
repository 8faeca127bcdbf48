"""The table of all settings in RUNBOOK.md, written from the settings classes themselves.

`python -m deploy.settings_table` writes it between two markers, `--check` only tells whether it is
up to date (exit status 1 if not). It must not repeat anything that a settings class says.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
BEGIN, END = "<!-- settings: begin (make fmt) -->", "<!-- settings: end -->"

CLASSES = (
    ("node", "api.config", "ApiSettings"),
    ("node", "api.config", "VertexSettings"),
    ("worker", "inference_worker.config", "WorkerSettings"),
)
"""Who reads them, the module, the class."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable, as its class declares it."""

    name: str
    default: str
    unit: str
    meaning: str


def shown(value: object) -> str:
    """A default as a person would type it; a path inside the checkout is shown from its root."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)
    if isinstance(value, (list, tuple, set, frozenset)):
        value = ",".join(map(str, value))
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def default_of(field: FieldInfo) -> str:
    """What holds without the variable; a factory by name, since its value is this machine's."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return f"`{field.default_factory.__name__}()`"
    return shown(field.default)


def setting(name: str, field: FieldInfo, prefix: str) -> Setting:
    """One field of a settings class. Raises ValueError when it says nothing about itself."""
    if not field.description:
        raise ValueError(f"the setting {name} has no description")
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    meaning = " ".join(field.description.split()).replace("|", "\\|")
    return Setting((prefix + name).upper(), default_of(field), str(extra.get("unit", "")), meaning)


def settings_of(kind: type[BaseSettings]) -> Iterator[Setting]:
    """Every setting of one class."""
    prefix = kind.model_config.get("env_prefix", "")
    for name, field in kind.model_fields.items():
        yield setting(name, field, prefix)


def table(classes: Iterable[tuple[str, type[BaseSettings]]]) -> str:
    """The Markdown table of all settings, as declared; one that several read alike stands once."""
    readers: dict[Setting, list[str]] = {}
    for reader, kind in classes:
        for one in settings_of(kind):
            readers.setdefault(one, []).append(reader)
    rows = [
        f"| `{one.name}` | {', '.join(who)} | {one.default} | {one.unit} | {one.meaning} |"
        for one, who in readers.items()
    ]
    head = ["| variable | read by | default | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(head + rows)


def load_classes() -> list[tuple[str, type[BaseSettings]]]:
    """The settings classes, imported now and not before: each brings its whole package along."""
    loaded: list[tuple[str, Any]] = [
        (reader, getattr(importlib.import_module(module), name)) for reader, module, name in CLASSES
    ]
    return loaded


def with_table(page: str, new: str) -> str:
    """The page with the table between its markers replaced; ValueError when it has no markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("RUNBOOK.md has lost the markers of the settings table")
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def main(argv: list[str]) -> int:
    """Writes the table, or with --check tells whether that is due; the exit status."""
    page = RUNBOOK.read_text()
    fresh = with_table(page, table(load_classes()))
    if fresh == page:
        return 0
    if "--check" in argv:
        print("deploy/RUNBOOK.md: the settings table is out of date; run make fmt", file=sys.stderr)
        return 1
    RUNBOOK.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
