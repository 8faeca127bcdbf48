"""The one thread that owns a model: takes submits and stops, runs steps, tells what came of them.

It drives whatever stands behind the ``Model`` port (llama.cpp, or a script) and is the ``Engine``
that the worker sees. It must not know how a model computes, nor what becomes of the text.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager, suppress
from functools import partial

from inference_worker.clock import Clock
from inference_worker.commands import Close, Command, EndThought, Stop, Submit
from inference_worker.engine import (
    EngineFailed,
    Finish,
    FinishReason,
    NoFreeSlot,
    OnSteps,
    SequenceSpec,
    Step,
    Timings,
    Vectors,
)
from inference_worker.fitting import check_fits
from inference_worker.hardware import PREFILL_CHUNK_TOKENS
from inference_worker.model import Feed, Model, SlotsExhausted
from inference_worker.saved_slot import SavedSlot
from inference_worker.scheduler import Scheduler
from inference_worker.sequence import Sequence, State
from inference_worker.slot_caches import SlotCaches
from inference_worker.slots import NOTHING, Slots
from inference_worker.turns import Result, Turn, Turns
from inference_worker.wording import Wording

CLOSE_TIMEOUT_S = 5.0

NO_TIMINGS = Timings(prompt_n=0, prompt_ms=0.0, predicted_n=0, predicted_ms=0.0)
_CLOSED = "the engine is closed"

log = logging.getLogger(__name__)


class BatchEngine(Wording):
    """An ``Engine`` over any ``Model``.

    The lock guards what other threads see: free slots, live ids, who is decoded alone, whether it
    is closed. The engine's thread is the only owner of all the rest.
    """

    def __init__(self, model: Model, *, prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS) -> None:
        super().__init__(model)
        self._chunk_tokens = prefill_chunk_tokens
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._on_steps: OnSteps = lambda steps: None
        self._lock = threading.Lock()
        self._slots = Slots(model.info.slots, chunk_tokens=prefill_chunk_tokens)
        self._caches = SlotCaches(model, self._slots, self._lock, chunk_tokens=prefill_chunk_tokens)
        self._live_ids: set[str] = set()
        self._alone = ""
        self._closed = ""
        self._closing = False
        shared_tokens = 0 if model.info.batch_invariant else prefill_chunk_tokens
        self._scheduler = Scheduler(shared_tokens, model.info.answers_max)
        self._apart: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}
        self._clocks: dict[str, Clock] = {}
        self._steps: list[Step] = []
        self._turns = Turns()

    def __repr__(self) -> str:
        return f"<BatchEngine {self.model.name}, {self.free_slots} slots free>"

    @property
    def free_slots(self) -> int:
        """Slots that ``submit`` would find free now; 0 once the engine failed or closed."""
        with self._lock:
            return 0 if self._closed else len(self._slots)

    @property
    def failure(self) -> str:
        """See ``Engine.failure``."""
        return "" if self._closed == _CLOSED else self._closed

    @property
    def prefill_chunk_tokens(self) -> int:
        """See ``Engine.prefill_chunk_tokens``."""
        return self._chunk_tokens

    @property
    def held_tokens(self) -> tuple[int, ...]:
        """See ``Engine.held_tokens``."""
        with self._lock:
            held = self._slots.held()
        return tuple(len(held.get(slot, NOTHING).tokens) for slot in range(self.model.slots))

    def start(self, on_steps: OnSteps) -> None:
        """Starts the engine's thread; once only."""
        assert self._thread is None, "started twice"
        self._on_steps = on_steps
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, spec: SequenceSpec) -> int:
        """Takes the slot that holds most of the prompt; see ``Engine.submit``. ValueError for an id
        that runs."""
        check_fits(self.model, spec)
        with self._lock:
            if self._closed:
                raise EngineFailed(self._closed)
            if spec.id in self._live_ids:
                raise ValueError(f"sequence {spec.id} has not finished")
            if not self._slots:
                raise NoFreeSlot(self.model.slots)
            self._live_ids.add(spec.id)
            place = self._slots.take(spec)
            self._commands.put(Submit(spec, place))
        return place.slot

    def stop(self, sequence_id: str) -> None:
        """Ends a sequence early; see ``Engine.stop``."""
        self._commands.put(Stop(sequence_id))
        with self._lock:
            if sequence_id == self._alone:
                self._model.interrupt()

    def end_thought(self, sequence_id: str) -> None:
        """See ``Engine.end_thought``."""
        self._commands.put(EndThought(sequence_id))

    def embed(self, inputs: Seq[Seq[int]]) -> list[Vectors]:
        """See ``Engine.embed``."""
        return self._between_steps(partial(self._model.embed, inputs))

    def save_slot(self, slot: int) -> SavedSlot:
        """See ``Engine.save_slot``."""
        return self._between_steps(partial(self._caches.save, slot))

    def restore_slot(self, slot: int, saved: SavedSlot) -> None:
        """See ``Engine.restore_slot``."""
        self._between_steps(partial(self._caches.restore, slot, saved))

    def erase_slot(self, slot: int) -> int:
        """See ``Engine.erase_slot``."""
        return self._between_steps(partial(self._caches.erase, slot))

    def close(self) -> None:
        """Finishes what runs as stopped, joins the thread, frees the model; idempotent."""
        with self._lock:
            already, self._closed = self._closed == _CLOSED, _CLOSED
        if already:
            return
        self._commands.put(Close())
        if self._thread:
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                # The model stays: freeing what the thread computes with would crash the process.
                log.error("the engine thread did not end within %s s", CLOSE_TIMEOUT_S)
                return
        self._model.close()

    def _between_steps(self, act: Callable[[], Result]) -> Result:
        """What comes of it on the engine's thread. Raises EngineFailed, and what it raises."""
        turn: Turn[Result] = Turn(act)
        with self._lock:
            if self._closed:
                raise EngineFailed(self._closed)
            self._commands.put(turn)
        return turn.result.result()

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands(wait=not self._scheduler and not self._turns)
                self._turns.take(is_alone=not self._scheduler)
                self._step()
            self._end_all(Finish(FinishReason.STOPPED))
        except Exception as error:  # the engine's task root
            log.exception("the engine failed")
            with self._lock:
                self._closed = self._closed or f"the engine failed: {error}"
            with suppress(Exception):  # as stopped: another worker goes on with them
                self._end_all(Finish(FinishReason.STOPPED))

    def _step(self) -> None:
        """One decode call and what comes of it."""
        fed = self._decode(self._next_step())
        # Here, between decode and sample: a stop that came meanwhile allows no further token.
        self._take_commands(wait=False)
        for sequence in fed:
            if sequence.finish is None:
                self._guarded(self._advance, sequence)
        self._flush()

    def _next_step(self) -> Seq[Sequence]:
        """Whose turn it is; after a decode that broke, each of those in it: one of them fails."""
        while self._apart:
            sequence = self._apart.popleft()
            if sequence.finish is None:
                return (sequence,)
        return self._scheduler.next_step()

    def _take_commands(self, *, wait: bool) -> None:
        """Takes all that is queued; waits for something if nothing runs."""
        with suppress(queue.Empty):
            self._take(self._commands.get(block=wait))
            while True:
                self._take(self._commands.get_nowait())

    def _take(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._admit(command)
        elif isinstance(command, Close):
            self._closing = True
        elif isinstance(command, Turn):
            self._turns.add(command)
        elif sequence := self._running.get(command.sequence_id):
            if isinstance(command, EndThought):
                sequence.end_thought()
            else:
                self._end(sequence, Finish(FinishReason.STOPPED))

    def _admit(self, submit: Submit) -> None:
        sequence = Sequence(
            submit.spec,
            slot=submit.place.slot,
            context_tokens=self.model.context_tokens,
            chunk_tokens=submit.place.chunk_tokens,
        )
        self._running[submit.spec.id] = sequence
        self._clocks[submit.spec.id] = Clock()
        self._scheduler.add(sequence)
        self._guarded(partial(self._open, cached_tokens=submit.place.cached_tokens), sequence)

    def _open(self, sequence: Sequence, *, cached_tokens: int) -> None:
        """Replays what an earlier attempt sampled; it may turn out to be all there was to do."""
        sequence.begin(self._model.trim(sequence.slot, cached_tokens))
        sequence.replay(lambda token: self._piece(sequence, token), self._model.ends)
        self._model.open_slot(sequence.slot, sequence.spec, accepted=sequence.first_draw)
        if sequence.finish:
            self._retire(sequence, text=sequence.flush())

    def _decode(self, sequences: Seq[Sequence]) -> list[Sequence]:
        """Feeds these sequences; returns those that were fed, and fails those that cannot be."""
        for sequence in sequences:
            self._guarded(self._shift, sequence)
        sequences = [sequence for sequence in sequences if sequence.finish is None]
        if not sequences:
            return []
        feeds = {sequence.slot: self._next_feed(sequence) for sequence in sequences}
        try:
            with self._interruptible(sequences):
                done = {feed.slot for feed in self._model.decode(tuple(feeds.values()))}
        except SlotsExhausted as error:
            if not self._caches.evict():
                # One makes room for all: the longest frees most.
                self._fail(max(sequences, key=lambda sequence: sequence.fed_tokens), error)
            return []
        except Exception as error:  # the root of these sequences
            self._part(sequences, error)
            return []
        fed = [sequence for sequence in sequences if sequence.slot in done]
        for sequence in fed:
            sequence.fed(len(feeds[sequence.slot].tokens))
        return fed

    def _shift(self, sequence: Sequence) -> None:
        """Makes room in a context that is full, where its session wants that."""
        gap = sequence.next_gap()
        if gap:
            self._model.shift(sequence.slot, gap)
            sequence.shifted(gap)

    def _part(self, sequences: Seq[Sequence], error: Exception) -> None:
        """After a decode that broke: fails the one that was in it, or has each of them come again
        alone, as it was before."""
        if len(sequences) == 1:
            self._fail(sequences[0], error)
            return
        log.warning("a decode of %d sequences failed: %s", len(sequences), error)
        for sequence in sequences:
            self._guarded(self._restore, sequence)
        self._apart.extend(sequences)

    def _restore(self, sequence: Sequence) -> None:
        if self._model.trim(sequence.slot, sequence.position) != sequence.position:
            raise EngineFailed("a decode failed, and what it left cannot be removed")

    @contextmanager
    def _interruptible(self, sequences: Seq[Sequence]) -> Iterator[None]:
        """A decode of one sequence ends early with it; others do not, neighbours are in them."""
        with self._lock:
            self._alone = sequences[0].spec.id if len(sequences) == 1 else ""
        try:
            yield
        finally:
            with self._lock:
                self._alone = ""

    def _next_feed(self, sequence: Sequence) -> Feed:
        self._clocks[sequence.spec.id].feeds()
        tokens = sequence.next_feed()
        fed = sequence.fed_tokens + len(tokens)
        samples = fed >= len(sequence.spec.prompt) + sequence.first_draw
        return Feed(sequence.slot, tokens, sequence.position, samples, sequence.spec.adapters)

    def _advance(self, sequence: Sequence) -> None:
        """After a decode: samples if the sequence answers, else tells the prompt's progress."""
        self._scheduler.settle(sequence)
        if sequence.state is not State.DECODE:
            self._redraw(sequence)
            self._steps.append(self._told(sequence))
            return
        index, forced = len(sequence.sampled), sequence.next_forced
        draw = self._model.sample(sequence.slot, index, forced=forced)
        token = draw.token
        self._clocks[sequence.spec.id].sampled()
        text = sequence.accept(
            token,
            self._piece(sequence, token),
            ends=self._model.ends(token),
            logprobs=draw.logprobs,
        )
        if sequence.finish:
            self._retire(sequence, tokens=(token,), text=text + sequence.flush())
        else:
            self._steps.append(self._told(sequence, tokens=(token,), text=text))

    def _piece(self, sequence: Sequence, token: int) -> bytes:
        """The bytes that a token shows in this sequence's text."""
        is_named = token in sequence.spec.shown_tokens
        return self._model.spelling(token) if is_named else self._model.piece(token)

    def _redraw(self, sequence: Sequence) -> None:
        """Lets the sampler see what it saw when an earlier attempt drew this token."""
        if sequence.draws:
            index = sequence.fed_tokens - len(sequence.spec.prompt)
            draw = self._model.sample(sequence.slot, index, forced=sequence.sampled[index])
            sequence.redrawn(index, draw.logprobs)

    def _guarded(self, act: Callable[[Sequence], None], sequence: Sequence) -> None:
        try:
            act(sequence)
        except Exception as error:  # the root of one sequence: its failure is not the others'
            self._fail(sequence, error)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        log.error("sequence %s failed", sequence.spec.id, exc_info=error)
        self._end(sequence, Finish(FinishReason.FAILED, error=str(error) or repr(error)))

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        sequence.end(finish)
        self._retire(sequence, text=sequence.flush())

    def _end_all(self, finish: Finish) -> None:
        # Submits that nobody will take any more; `_closed` keeps further ones out.
        with suppress(queue.Empty):
            while True:
                command = self._commands.get_nowait()
                if isinstance(command, Submit):
                    self._steps.append(Step(command.spec.id, finish=finish, timings=NO_TIMINGS))
                elif isinstance(command, Turn):
                    self._turns.add(command)
        self._turns.end(EngineFailed(self._closed))
        for sequence in tuple(self._running.values()):
            self._end(sequence, finish)
        self._flush()

    def _retire(self, sequence: Sequence, *, tokens: tuple[int, ...] = (), text: str) -> None:
        """Frees a finished sequence's slot, then tells: who sees the finish may submit at once."""
        self._steps.append(self._told(sequence, tokens=tokens, text=text))
        self._scheduler.settle(sequence)
        self._model.close_slot(sequence.slot)
        del self._running[sequence.spec.id], self._clocks[sequence.spec.id]
        held = self._caches.left_by(sequence)
        with self._lock:
            self._live_ids.remove(sequence.spec.id)
            self._slots.give(sequence.slot, held)

    def _told(self, sequence: Sequence, *, tokens: tuple[int, ...] = (), text: str = "") -> Step:
        told = bool(tokens or sequence.finish)
        timings = self._clocks[sequence.spec.id].timings(sequence) if told else None
        return sequence.step(tokens, text, timings)

    def _flush(self) -> None:
        steps, self._steps = self._steps, []
        if steps:
            self._on_steps(steps)
