from inference_worker.slots import Place, Slots

CHUNK = 4
ONE = tuple(range(20))
OTHER = tuple(range(100, 120))


def slots(*held: tuple[int, ...], count: int = 0) -> Slots:
    """Slots that hold these tokens, the first the least recently used."""
    made = Slots(count or len(held), chunk_tokens=CHUNK)
    for tokens in held:
        made.give(made.take(tokens, from_cache=False).slot, tokens)
    return made


def test_a_prompt_gets_the_slot_that_holds_most_of_it() -> None:
    assert slots(ONE[:8], ONE[:16], OTHER).take(ONE, from_cache=True) == Place(1, 16)


def test_only_whole_chunks_are_shared() -> None:
    prompt = (*ONE[:11], 99, *ONE[12:])
    assert slots(ONE).take(prompt, from_cache=True) == Place(0, 8)


def test_a_prompts_last_token_is_always_computed() -> None:
    for length, cached in ((20, 16), (17, 16), (16, 12), (4, 0), (1, 0)):
        assert slots(ONE).take(ONE[:length], from_cache=True) == Place(0, cached)


def test_what_holds_nothing_goes_before_what_another_conversation_left() -> None:
    free = slots(ONE, OTHER, count=4)
    assert [free.take((7,) * 9, from_cache=True).slot for _ in range(4)] == [2, 3, 0, 1]


def test_the_least_recently_used_cache_is_given_up_first() -> None:
    free = slots(ONE, OTHER)
    free.give(free.take(ONE, from_cache=True).slot, ONE)
    assert free.take((7,) * 9, from_cache=True) == Place(1, 0)


def test_a_little_in_common_is_no_reason_to_give_up_a_cache() -> None:
    mostly_another = (*ONE[:4], *range(200, 240))
    assert slots(OTHER, ONE).take(mostly_another, from_cache=True) == Place(0, 0)


def test_a_request_may_want_nothing_from_the_cache() -> None:
    assert slots(OTHER, ONE).take(ONE, from_cache=False) == Place(0, 0)


def test_caches_are_evicted_from_the_least_recently_used_on() -> None:
    free = slots(ONE, OTHER)
    assert [free.evict() for _ in range(3)] == [0, 1, None]
    assert free.take(ONE, from_cache=True) == Place(0, 0)
    assert len(free) == 1
