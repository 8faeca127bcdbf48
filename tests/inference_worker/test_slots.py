from typing import Any

from inference_worker.engine import SequenceSpec
from inference_worker.slots import Held, Place, Slots
from replay.request import SamplingParams

CHUNK = 4
ONE = tuple(range(20))
OTHER = tuple(range(100, 120))


def spec(prompt: tuple[int, ...], **options: Any) -> SequenceSpec:
    return SequenceSpec("one", prompt, SamplingParams(seed=1), **options)


def slots(*held: tuple[int, ...], count: int = 0) -> Slots:
    """Slots that hold these tokens, the first the least recently used."""
    made = Slots(count or len(held), chunk_tokens=CHUNK)
    for tokens in held:
        made.give(made.take(spec(tokens, cache_prompt=False)).slot, Held(tokens))
    return made


def test_a_prompt_gets_the_slot_that_holds_most_of_it() -> None:
    assert slots(ONE[:8], ONE[:16], OTHER).take(spec(ONE)) == Place(1, 16, CHUNK)


def test_only_whole_chunks_are_shared() -> None:
    prompt = (*ONE[:11], 99, *ONE[12:])
    assert slots(ONE).take(spec(prompt)) == Place(0, 8, CHUNK)


def test_a_prompts_last_token_is_always_computed() -> None:
    for length, cached in ((20, 16), (17, 16), (16, 12), (4, 0), (1, 0)):
        assert slots(ONE).take(spec(ONE[:length])) == Place(0, cached, CHUNK)


def test_what_holds_nothing_goes_before_what_another_conversation_left() -> None:
    free = slots(ONE, OTHER, count=4)
    assert [free.take(spec((7,) * 9)).slot for _ in range(4)] == [2, 3, 0, 1]


def test_the_least_recently_used_cache_is_given_up_first() -> None:
    free = slots(ONE, OTHER)
    free.give(free.take(spec(ONE)).slot, Held(ONE))
    assert free.take(spec((7,) * 9)) == Place(1, 0, CHUNK)


def test_a_little_in_common_is_no_reason_to_give_up_a_cache() -> None:
    mostly_another = (*ONE[:4], *range(200, 240))
    assert slots(OTHER, ONE).take(spec(mostly_another)) == Place(0, 0, CHUNK)


def test_a_request_may_want_nothing_from_the_cache() -> None:
    assert slots(OTHER, ONE).take(spec(ONE, cache_prompt=False)) == Place(0, 0, CHUNK)


def test_other_chunks_share_nothing_and_larger_ones_are_cut() -> None:
    assert slots(ONE).take(spec(ONE, prefill_chunk_tokens=2)) == Place(0, 0, 2)
    assert slots(ONE).take(spec(ONE, prefill_chunk_tokens=100)) == Place(0, 16, CHUNK)


def test_caches_are_evicted_from_the_least_recently_used_on() -> None:
    free = slots(ONE, OTHER)
    assert [free.evict() for _ in range(3)] == [0, 1, None]
    assert free.take(spec(ONE)) == Place(0, 0, CHUNK)
    assert len(free) == 1


def test_a_cache_is_of_the_same_adapters_alone() -> None:
    one, half = (("A", 1.0),), (("A", 0.5),)
    free = slots(count=3)
    for adapters in ((), one):
        free.give(free.take(spec(ONE, adapters=adapters)).slot, Held(ONE, adapters))
    assert free.take(spec(ONE, adapters=half)) == Place(2, 0, CHUNK)
    assert free.take(spec(ONE, adapters=one)) == Place(1, 16, CHUNK)
    assert free.take(spec(ONE)) == Place(0, 16, CHUNK)
