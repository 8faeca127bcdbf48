"""A seed is a plan: always the same one, and all of them possible."""

from __future__ import annotations

import pytest

from .__main__ import seeds_of
from .plan import LINK_KINDS, Ask, Follow, Kind, Stop, plan_of

SEEDS = range(1, 400)


@pytest.mark.parametrize("engine", ["scripted", "llama"])
def test_the_same_seed_is_the_same_plan(engine: str) -> None:
    assert [plan_of(seed, engine) for seed in SEEDS] == [plan_of(seed, engine) for seed in SEEDS]
    assert list(plan_of(1, engine).lines()) == list(plan_of(1, engine).lines())


def test_another_seed_is_another_plan() -> None:
    assert len({tuple(plan_of(seed).lines()) for seed in SEEDS}) == len(SEEDS)


def test_every_kind_of_fault_is_drawn() -> None:
    drawn = {fault.kind for seed in SEEDS for fault in plan_of(seed).faults}
    assert drawn == set(Kind)


@pytest.mark.parametrize("seed", [1, 2, 3, 50, 399])
def test_a_plan_names_what_its_topology_has(seed: int) -> None:
    plan = plan_of(seed)
    topology = plan.topology
    children = {*topology.node_names, *topology.worker_names}
    for fault in plan.faults:
        if fault.kind in LINK_KINDS:
            side, _, child = fault.target.partition(":")
            assert child in (topology.node_names if side == "client" else children)
        else:
            assert fault.target in {*children, "redis"}
    named = {asked.name for asked in plan.asks}
    clients: list[Ask | Stop | Follow] = [*plan.asks, *plan.stops, *plan.follows]
    assert {one.name for one in clients} <= named
    assert all(one.node < topology.nodes for one in clients)


def test_seeds_are_ranges_and_numbers() -> None:
    assert list(seeds_of("3-5,9")) == [3, 4, 5, 9]
