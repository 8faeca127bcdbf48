import pytest

from inference_worker.engine import Candidate, Finish, FinishReason, SequenceSpec, TokenLogprobs
from inference_worker.sequence import TRANSITIONS, Sequence, State
from replay.request import SamplingParams


def make(
    prompt: int = 300, *, sampled: tuple[int, ...] = (), max_tokens: int = -1, stop: str = ""
) -> Sequence:
    spec = SequenceSpec(
        "one",
        tuple(range(prompt)),
        SamplingParams(seed=1),
        sampled=sampled,
        stop=(stop,),
        max_tokens=max_tokens,
    )
    sequence = Sequence(spec, slot=0, context_tokens=310, chunk_tokens=128)
    sequence.replay(lambda token: bytes([token]), lambda token: token == 0)
    return sequence


def feed_all(sequence: Sequence) -> list[tuple[int, ...]]:
    feeds = []
    while sequence.state is not State.DECODE:
        feeds.append(sequence.next_feed())
        sequence.fed(len(feeds[-1]))
    return feeds


def test_prompt_chunks_end_at_multiples_of_the_chunk_size() -> None:
    assert [len(feed) for feed in feed_all(make(300))] == [128, 128, 44]


def test_sampled_tokens_are_fed_again_one_by_one_after_the_prompt() -> None:
    feeds = feed_all(make(130, sampled=(65, 66, 67)))
    assert feeds[2:] == [(65,), (66,), (67,)]
    assert [len(feed) for feed in feeds[:2]] == [128, 2]


def test_each_sampled_token_is_the_next_feed() -> None:
    sequence = make(5)
    feed_all(sequence)
    sequence.accept(70, b"F", ends=False)
    assert (sequence.next_feed(), sequence.fed_tokens) == ((70,), 5)


def test_the_end_token_finishes_and_shows_nothing() -> None:
    sequence = make(5)
    feed_all(sequence)
    assert sequence.accept(0, b"</s>", ends=True) == ""
    assert sequence.finish == Finish(FinishReason.STOP)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_max_tokens_counts_the_tokens_of_all_attempts(before: int) -> None:
    sequence = make(5, sampled=(65,) * before, max_tokens=4)
    feed_all(sequence)
    for _ in range(4 - before):
        assert sequence.finish is None
        sequence.accept(65, b"A", ends=False)
    assert sequence.finish == Finish(FinishReason.LENGTH)


def test_no_tokens_allowed_finishes_before_anything_is_fed() -> None:
    assert make(5, max_tokens=0).finish == Finish(FinishReason.LENGTH)


def test_a_full_context_finishes_and_says_so() -> None:
    sequence = make(309)
    feed_all(sequence)
    sequence.accept(65, b"A", ends=False)
    assert sequence.finish == Finish(FinishReason.LENGTH, context_full=True)


@pytest.mark.parametrize(
    ("sampled", "finish"),
    [
        ((65, 0), Finish(FinishReason.STOP)),
        ((65, 66), Finish(FinishReason.STOP, stopping_word="B")),
    ],
)
def test_an_answer_that_an_earlier_attempt_completed_finishes_at_once(
    sampled: tuple[int, ...], finish: Finish
) -> None:
    assert make(5, sampled=sampled, stop="B").finish == finish


def test_every_state_has_its_transitions_and_the_last_has_none() -> None:
    assert set(TRANSITIONS) == set(State)
    assert not TRANSITIONS[State.FINISHED]


def test_a_finished_sequence_cannot_finish_again() -> None:
    sequence = make(5)
    sequence.end(Finish(FinishReason.STOPPED))
    with pytest.raises(AssertionError, match="cannot become"):
        sequence.end(Finish(FinishReason.STOPPED))


def test_a_held_tokens_probabilities_wait_behind_what_is_no_utf8() -> None:
    spec = SequenceSpec("one", (1,), SamplingParams(seed=1, logprobs=True), stop=("abc",))
    sequence = Sequence(spec, slot=0, context_tokens=310, chunk_tokens=128)
    told, shown = list[int](), ""
    for token, piece in enumerate([b"\xff", b"a", b"b", b"\xc3", b"\xa9"]):
        probabilities = TokenLogprobs(Candidate(token, piece, 0.0), ())
        shown += sequence.accept(token, piece, ends=False, logprobs=probabilities)
        told.append(len(sequence.take_logprobs()))
    assert (shown, told) == ("\ufffdab\u00e9", [1, 0, 0, 0, 4])
