from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inference_worker.engine import Finish, FinishReason, SequenceSpec
from inference_worker.scheduler import PASSED_OVER_MAX, Scheduler
from inference_worker.sequence import Sequence, State
from replay.adapters import Applied
from replay.request import SamplingParams

CHUNK_TOKENS = 128


def make(
    name: str,
    prompt: int,
    *,
    slot: int = 0,
    cached: int = 0,
    sampled: tuple[int, ...] = (),
    max_tokens: int = -1,
    adapters: Applied = (),
) -> Sequence:
    spec = SequenceSpec(
        name,
        tuple(range(prompt)),
        SamplingParams(seed=1),
        sampled=sampled,
        max_tokens=max_tokens,
        adapters=adapters,
    )
    sequence = Sequence(spec, slot=slot, context_tokens=100_000, chunk_tokens=CHUNK_TOKENS)
    sequence.begin(cached)
    sequence.replay(lambda token: b"x", lambda token: False)
    return sequence


def take_step(scheduler: Scheduler) -> str:
    """Runs one step and names whom it fed: a prompt in capitals, answers in small letters."""
    fed = scheduler.next_step()
    is_prompt = any(sequence.prompt_tokens_left for sequence in fed)
    for sequence in fed:
        sequence.fed(len(sequence.next_feed()))
        if sequence.state is State.DECODE:
            sequence.accept(1, b"x", ends=False)
        scheduler.settle(sequence)
    names = "".join(sequence.spec.id for sequence in fed)
    return names.upper() if is_prompt else names


def take_steps(scheduler: Scheduler, count: int) -> list[str]:
    return [take_step(scheduler) for _ in range(count)]


def chunks(scheduler: Scheduler, *, steps: int) -> str:
    """Whose chunks they fed, in their order."""
    return "".join(name for name in take_steps(scheduler, steps) if name.isupper())


def scheduler_of(*sequences: Sequence, shared_tokens: int = 0, answers_max: int = 0) -> Scheduler:
    scheduler = Scheduler(shared_tokens, answers_max)
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def test_equal_prompts_are_fed_one_after_the_other() -> None:
    """First tokens come after 12, 24, 36 and 48 chunks; with a chunk each in turns, after 45."""
    scheduler = scheduler_of(*(make(name, 1500, slot=n) for n, name in enumerate("abcd")))
    assert chunks(scheduler, steps=200) == "A" * 12 + "B" * 12 + "C" * 12 + "D" * 12


def test_a_short_prompt_is_next_while_a_long_one_enters() -> None:
    scheduler = scheduler_of(make("l", 1500))
    assert chunks(scheduler, steps=3) == "LLL"
    scheduler.add(make("s", 100, slot=1))
    assert take_step(scheduler) == "S"
    assert chunks(scheduler, steps=40) == "L" * 9


def test_what_a_prompt_has_in_its_cache_makes_it_short() -> None:
    scheduler = scheduler_of(make("a", 1500), make("b", 1600, slot=1, cached=12 * CHUNK_TOKENS))
    assert chunks(scheduler, steps=40) == "B" + "A" * 12


def test_a_long_prompt_goes_on_beside_a_stream_of_short_ones() -> None:
    scheduler = scheduler_of(make("l", 1500))
    fed = ""
    while fed.count("L") < 12:
        scheduler.add(make("s", 1, slot=1, max_tokens=1))
        fed += take_step(scheduler)
    assert fed == ("S" * PASSED_OVER_MAX + "L") * 12


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 1000), min_size=1, max_size=5))
def test_what_comes_later_delays_a_prompt_by_no_more_than_the_bound(
    arrivals: dict[int, int],
) -> None:
    """By step: of how many tokens a prompt comes. Beside them, as soon as a short one is through,
    the next is there."""
    scheduler, bounds = Scheduler(), dict[Sequence, int]()
    short = make("s", 1, max_tokens=0)
    for step in range(max(arrivals) + 5 * 9 * (PASSED_OVER_MAX + 1)):
        coming = [make("p", arrivals[step], slot=step, max_tokens=1)] if step in arrivals else []
        if short.finish:
            short = make("s", 1, slot=100, max_tokens=1)
            coming.append(short)
        for prompt in coming:
            scheduler.add(prompt)
            bounds[prompt] = 0
            ahead = sum(-(-one.prompt_tokens_left // CHUNK_TOKENS) for one in bounds)
            bounds[prompt] = step + ahead * (PASSED_OVER_MAX + 1)
        take_step(scheduler)
        bounds = {prompt: bound for prompt, bound in bounds.items() if not prompt.finish}
        assert all(step + 1 < bound for bound in bounds.values())


def test_a_prompt_that_cannot_be_fed_holds_up_no_other() -> None:
    stuck, also = make("s", 1), make("t", 2, slot=1)
    scheduler = scheduler_of(stuck, also, make("a", 300, slot=2, max_tokens=1))
    fed = ""
    while not fed.endswith("AAA"):
        [prompt] = scheduler.next_step()
        fed += prompt.spec.id.upper()
        if prompt not in (stuck, also):
            prompt.fed(len(prompt.next_feed()))
            scheduler.settle(prompt)
    assert fed == "STAAA"


def test_short_prompts_share_a_step_where_they_may() -> None:
    lengths = {"a": 50, "b": 300, "c": 40, "d": 38, "e": 10}
    prompts = [make(name, length, slot=n) for n, (name, length) in enumerate(lengths.items())]
    scheduler = scheduler_of(*prompts, shared_tokens=CHUNK_TOKENS)
    assert take_steps(scheduler, 7) == ["EDC", "cde", "A", "acde", "B", "acde", "B"]


def test_the_prompt_that_was_passed_over_shares_its_step_with_those_that_fit() -> None:
    scheduler = scheduler_of(make("l", CHUNK_TOKENS + 20), shared_tokens=CHUNK_TOKENS)
    fed = ""
    for _ in range(PASSED_OVER_MAX + 3):
        scheduler.add(make("s", 100, slot=1, max_tokens=1))
        fed += take_step(scheduler)
    assert fed == "S" * PASSED_OVER_MAX + "L" + "LS" + "l"


def test_a_long_prompt_lets_running_answers_step_between_any_two_chunks() -> None:
    scheduler = scheduler_of(make("a", 1))
    take_step(scheduler)
    scheduler.add(make("l", 2000, slot=1))
    assert take_steps(scheduler, 32) == ["a", "L"] * 16


def test_what_an_earlier_attempt_sampled_is_fed_among_the_answers() -> None:
    scheduler = scheduler_of(make("a", 1), make("b", 1, slot=1, sampled=(1, 2, 3)))
    scheduler.add(make("l", 500, slot=2))
    assert take_steps(scheduler, 6) == ["A", "a", "B", "ab", "L", "ab"]


def test_all_running_answers_share_a_step_in_the_order_of_their_slots() -> None:
    scheduler = scheduler_of(make("b", 1, slot=1), make("c", 1, slot=2), make("a", 1, slot=0))
    take_steps(scheduler, 5)
    assert take_step(scheduler) == "abc"


ONE, OTHER = (("1", 1.0),), (("2", 0.5),)


def adapted() -> list[Sequence]:
    """By slot: with none, one, another, that one again, none."""
    each = ((), ONE, OTHER, ONE, ())
    return [make(name, 1, slot=n, adapters=each[n]) for n, name in enumerate("abcde")]


def test_answers_with_adapters_are_fed_alone_and_those_with_the_same_follow_each_other() -> None:
    scheduler = scheduler_of(*adapted())
    take_steps(scheduler, 20)
    fed = take_steps(scheduler, 40)
    assert all(9 <= fed.count(name) <= 11 for name in ("ae", "b", "c", "d"))
    applied = {"ae": (), "b": ONE, "c": OTHER, "d": ONE}
    assert sum(applied[one] != applied[following] for one, following in pairwise(fed)) <= 20


def test_where_neighbours_change_the_numbers_those_with_the_same_adapters_share_a_step() -> None:
    scheduler = scheduler_of(*adapted(), shared_tokens=CHUNK_TOKENS)
    prompts = [one for one in take_steps(scheduler, 20) if one.isupper()]
    assert sorted(prompts) == ["AE", "BD", "C"]
    fed = take_steps(scheduler, 30)
    assert all(9 <= fed.count(name) <= 11 for name in ("ae", "bd", "c"))


def test_all_answers_step_between_two_chunks_whatever_their_adapters() -> None:
    scheduler = scheduler_of(*adapted())
    take_steps(scheduler, 20)
    scheduler.add(make("l", 2000, slot=5, adapters=OTHER))
    fed = "".join(take_steps(scheduler, 44)).split("L")[1:-1]
    assert [sorted(between) for between in fed] == [list("abcde")] * len(fed)
    assert len(fed) >= 7


def test_an_answer_that_ends_within_a_round_is_not_fed() -> None:
    sequences = adapted()
    scheduler = scheduler_of(*sequences)
    take_steps(scheduler, 20)
    for sequence in sequences[1:]:
        sequence.end(Finish(FinishReason.STOPPED))
        scheduler.settle(sequence)
    assert "".join(take_steps(scheduler, 6)).strip("a") == ""


def test_a_finished_sequence_is_not_scheduled() -> None:
    running, ended, unfed = make("a", 1), make("b", 1, slot=1), make("c", 1, slot=2)
    scheduler = scheduler_of(running, ended)
    take_steps(scheduler, 4)
    scheduler.add(unfed)
    for sequence in (ended, unfed):
        sequence.end(Finish(FinishReason.STOPPED))
        scheduler.settle(sequence)
    assert take_steps(scheduler, 3) == ["a", "a", "a"]


def test_there_is_no_step_when_nothing_runs() -> None:
    assert Scheduler().next_step() == ()


def test_answers_share_a_step_in_companies_and_all_have_one_between_two_of_prompts() -> None:
    scheduler = scheduler_of(
        *(make(name, 1, slot=n) for n, name in enumerate("abcdefgh")), answers_max=3
    )
    take_steps(scheduler, 50)
    scheduler.add(make("p", 1500, slot=8))
    while take_step(scheduler) != "P":
        pass
    assert take_steps(scheduler, 8) == ["abc", "def", "gh", "P"] * 2


def test_a_company_that_left_is_not_waited_for() -> None:
    third = make("c", 1, slot=2)
    scheduler = scheduler_of(make("a", 1), make("b", 1, slot=1), third, answers_max=2)
    while take_step(scheduler) != "c":
        pass
    assert take_step(scheduler) == "ab"
    third.end(Finish(FinishReason.STOPPED))
    scheduler.settle(third)
    assert take_steps(scheduler, 2) == ["ab", "ab"]
