from inference_worker.engine import Finish, FinishReason, SequenceSpec
from inference_worker.scheduler import Scheduler
from inference_worker.sequence import Sequence, State
from replay.request import SamplingParams


def make(name: str, prompt: int, *, slot: int = 0) -> Sequence:
    spec = SequenceSpec(name, tuple(range(prompt)), SamplingParams(seed=1))
    return Sequence(spec, slot=slot, context_tokens=100_000, chunk_tokens=128)


def take_step(scheduler: Scheduler) -> str:
    """Runs one step and names the sequences that it fed."""
    fed = scheduler.next_step()
    for sequence in fed:
        sequence.fed(len(sequence.next_feed()))
        if sequence.state is State.DECODE:
            sequence.accept(1, b"x", ends=False)
        scheduler.settle(sequence)
    return "".join(sequence.spec.id for sequence in fed)


def scheduler_of(*sequences: Sequence) -> Scheduler:
    scheduler = Scheduler()
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def test_prompts_take_turns_chunk_by_chunk() -> None:
    scheduler = scheduler_of(make("a", 400), make("b", 400))
    assert [take_step(scheduler) for _ in range(6)] == ["a", "b", "a", "b", "a", "b"]


def test_a_long_prompt_lets_running_answers_step_between_any_two_chunks() -> None:
    scheduler = scheduler_of(make("a", 1))
    take_step(scheduler)
    scheduler.add(make("L", 2000))
    steps = "".join(take_step(scheduler) for _ in range(30))
    assert "LL" not in steps
    assert steps.count("L") >= 15


def test_all_running_answers_share_a_step_in_the_order_of_their_slots() -> None:
    scheduler = scheduler_of(make("b", 1, slot=1), make("c", 1, slot=2), make("a", 1, slot=0))
    for _ in range(5):
        take_step(scheduler)
    assert take_step(scheduler) == "abc"


def test_a_finished_sequence_is_not_scheduled() -> None:
    running, ended = make("a", 1, slot=0), make("b", 1, slot=1)
    scheduler = scheduler_of(running, ended)
    ended.end(Finish(FinishReason.STOPPED))
    scheduler.settle(ended)
    assert [take_step(scheduler) for _ in range(3)] == ["a", "a", "a"]


def test_there_is_no_step_when_nothing_runs() -> None:
    assert Scheduler().next_step() == ()
