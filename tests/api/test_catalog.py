"""Many workers, one picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from node_harness import NodeHarness, Workers, model, worker

from api.catalog import Catalog, merged
from api.problems import RequestInvalid, Unavailable

pytestmark = pytest.mark.anyio


def test_the_best_status_counts_and_slots_add_up() -> None:
    picture = merged(
        [
            worker("w1", model("m", "loading", progress=0.5, slots_free=0)),
            worker("w2", model("m", aliases=("b", "a"), slots_free=3), model("n", "failed")),
        ]
    )
    one, other = picture.models
    assert (one.name, one.status, one.aliases) == ("m", "loaded", ("a", "b"))
    assert (one.slots, one.slots_free, picture.workers) == (16, 3, 2)
    assert (other.name, other.status) == ("n", "failed")


def test_nobody_is_an_empty_picture() -> None:
    assert merged([]).models == ()


async def test_a_model_that_nobody_could_load_is_503() -> None:
    catalog = Catalog(Workers([worker("w", model("m", "failed"))]))
    with pytest.raises(Unavailable, match="could not be loaded"):
        await catalog.choose("m")


async def test_a_single_model_need_not_be_named() -> None:
    catalog = Catalog(Workers([worker("w", model("m"))]))
    assert (await catalog.choose("")).name == "m"
    with pytest.raises(RequestInvalid, match="model 'other' not found"):
        await catalog.choose("other")
    with pytest.raises(RequestInvalid) as told:
        await catalog.choose("x" * 1_000_000)
    assert len(str(told.value)) < 200


async def test_the_picture_is_taken_once_for_many_who_look() -> None:
    workers = Workers([worker("w", model("m"))])
    catalog = Catalog(workers)
    before = await catalog.picture()
    workers.records = []
    assert await catalog.picture() is before
    catalog.forget()
    assert (await catalog.picture()).models == ()


async def test_models_are_listed_in_the_routers_form(node: NodeHarness) -> None:
    loading = replace(model("m", "loading", progress=0.25), meta={"n_params": 9})
    node.workers.records = [worker("w", loading)]
    for path in ("/v1/models", "/models"):
        answer = (await node.http.get(path)).json()
        assert answer["object"] == "list"
        [entry] = answer["data"]
        assert (entry["id"], entry["object"]) == ("m", "model")
        assert entry["status"] == {"value": "loading", "progress": 0.25}
        assert entry["meta"] == {"n_params": 9, "n_ctx": 8192, "slots": 8, "slots_free": 8}
        assert entry["created"] == 1_700_000_000


@pytest.mark.parametrize("name", ["org/model:Q4", "org%2Fmodel:Q4", "nick"])
async def test_a_model_is_found_by_each_of_its_names(node: NodeHarness, name: str) -> None:
    node.workers.records = [worker("w", model("org/model:Q4", aliases=("nick",)))]
    [listed] = (await node.http.get("/v1/models")).json()["data"]
    for path in ("/v1/models", "/models"):
        assert (await node.http.get(f"{path}/{name}")).json() == listed
        assert (await node.http.get(f"{path}/{name}x")).status_code == 404


async def test_props_tell_what_the_page_needs(node: NodeHarness) -> None:
    props = (await node.http.get("/props")).json()
    assert (props["role"], props["workers"]) == ("router", 1)
    assert props["ping"] == {"interval_s": 15}
    assert props["ui_settings"] == props["webui_settings"] == {}
    assert props["default_generation_settings"]["n_ctx"] == 8192
    assert (props["retention_s"], props["models_autoload"]) == (7200, False)
    named = (await node.http.get("/props?model=org/model:Q4")).json()
    assert named["model_alias"] == "org/model:Q4"
