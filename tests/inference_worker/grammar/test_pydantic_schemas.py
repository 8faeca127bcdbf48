"""Schemas as pydantic writes them: what their grammars allow, pydantic takes."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import pathlib
import uuid
from random import Random
from typing import Annotated, Any, Literal

import pytest
from pydantic import UUID4, AnyUrl, BaseModel, ConfigDict, Field, RootModel, create_model

from inference_worker.grammar import GrammarRules, checked, schema_rule

from .written import text_of

SEEDS = 8


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None = None


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ratio: float


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    ratio: float


FIELDS: dict[str, Any] = {
    "a union told apart": Annotated[Cat | Dog, Field(discriminator="kind")],
    "a union": int | list[int] | str,
    "times": tuple[datetime.datetime, datetime.date, datetime.time, datetime.timedelta],
    "ids": tuple[uuid.UUID, UUID4],
    "addresses": tuple[AnyUrl, ipaddress.IPv4Address, ipaddress.IPv6Address, pathlib.Path],
    "bounds": Annotated[int, Field(gt=3, lt=9)],
    "lengths": Annotated[str, Field(min_length=2, max_length=4)],
    "a pattern": Annotated[str, Field(pattern=r"^[A-Z]{2}\d{3}$")],
    "some of a list": Annotated[list[Color], Field(min_length=1, max_length=3)],
    "values": Literal["a", 1, None, True],
    "a mapping": dict[str, float],
    "a mapping of an enum": dict[Color, int],
    "a mapping of a pattern": dict[Annotated[str, Field(pattern="^a+$")], int],
    "anything": Any,
    "models": tuple[Closed, Open, Tree | None],
}
MODELS: dict[str, type[BaseModel]] = {
    **{name: create_model("Model", field=(kind, ...)) for name, kind in FIELDS.items()},
    "a tree": Tree,
    "a root": RootModel[list[Dog]],
}


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_allowed_is_what_the_model_takes(name: str, mode: Any) -> None:
    model = MODELS[name]
    rules = GrammarRules()
    root = rules.reserve("root")
    rules.put(root, schema_rule(rules, model.model_json_schema(mode=mode)))
    grammar = checked(rules.text())
    texts = [text_of(grammar, Random(seed)) for seed in range(SEEDS)]
    assert any(texts)
    for text in texts:
        if text is not None:
            model.model_validate_json(text)
