"""Previews of items over which a worker has died: asked of a reader, before anything follows from the death.

pidfd readable ─▶ fenced (engine) ─▶ a reader shows the suspects ─▶ handled ─▶ blame, ledger, replacement
                                         │
                                         └▶ it dies of them, or takes too long: what can be said without unpickling

A reader is a worker of the same kind that executes nothing (`worker.suspect_preview`): one for each task in which
workers die, started at the first death and kept, so an item that goes well costs nothing, and a death a few
milliseconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from runner.engines.engine_events import MessageReceived, WorkerExited
from runner.errors import SpawnError
from runner.model import OWN_ENGINES
from runner.supervisor.run_state import Phase
from runner.transport.messages import Grant, Ready, Reply, SuspectPreview
from runner.transport.progress_page import MAX_PROGRESS_SLOTS

if TYPE_CHECKING:
    from runner.ledger.subscriptions import ItemRange
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.workers import WorkerPool

#: Seconds that a reader has for its start, and for one question; how many a task may cost, and items in a question.
_BOOT, _LIMIT = 10.0, 2.0
_READERS = 20
_MOST = 1000


class _Question(Struct, eq=False):
    """A death that waits, and its suspects with their queues."""

    slot: WorkerSlot
    event: WorkerExited
    suspects: list[tuple[str, ItemRange]]
    until: float = 0.0
    shown: list[str] = field(default_factory=list)

    def previews(self, why: str) -> dict[str, str]:
        """Return by item what was shown of it last; else what is known without a reader, and why that is all."""
        found = {}
        for at, (_, piece) in enumerate(self.suspects):
            texts = self.shown[at :: len(self.suspects)]
            text = texts[-1] if texts else f"<item of {piece.size:,} bytes, which could not be shown>"
            if why and len(texts) < 2:
                text = f"{text.removesuffix('>')}: {why}>"
            found[piece.item_id] = text
        return found


class _Reader(Struct, eq=False):
    """One task's reader, and what it is to be asked; the first of it is under way once it is ready."""

    task: TaskState
    index: int
    generation: int = 0
    alive: bool = False
    ready: bool = False
    #: It is being killed: the next one takes its place once it is gone.
    is_dying: bool = False
    until: float = 0.0
    asked: deque[_Question] = field(default_factory=deque)


class SuspectReaders(Struct, eq=False):
    """All readers. `able`: there may be any; the pool is told of a death once its suspects have been shown."""

    state: RunState
    dispatcher: Dispatcher
    worker_pool: WorkerPool
    able: bool
    readers: dict[int, _Reader] = field(default_factory=dict)
    #: Items of which readers have died, or that took too long: no other one is asked for them.
    _fatal: dict[str, str] = field(default_factory=dict)

    def ask_reader(self, event: WorkerExited) -> bool:
        """Return True if a death waits until its suspects have been shown; the pool is told of it then."""
        if not self.able or self.state.killing:
            return False
        slot = self.state.slots[event.slot]
        if slot.generation != event.generation or slot.phase is Phase.FINISHED:
            return False
        if slot.task.failure_reason or slot.task.is_source:
            return False
        suspects = self.worker_pool.suspect_items(slot, event)[:_MOST]
        reader = self._find_reader(slot.task) if suspects else None
        if reader is None:
            return False
        question = _Question(slot, event, suspects)
        if suspects[0][1].item_id in self._fatal or (reader.generation >= _READERS and not reader.alive):
            slot.suspect_previews = {**question.previews("its reader would not show it"), **self._fatal}
            return False
        slot.death_pending = True
        slot.task.count_acceptor(slot)
        reader.asked.append(question)
        self._ask_next(reader)
        return True

    def _find_reader(self, task: TaskState) -> _Reader | None:
        for reader in self.readers.values():
            if reader.task is task:
                return reader
        index = MAX_PROGRESS_SLOTS - 1 - len(self.readers)
        workers = sum(max(len(each.plan.config.workers), len(each.slots)) for each in self.state.tasks.values())
        ours = task.plan.mode == "thread" or self.state.plan.settings.engine in OWN_ENGINES
        if index < workers or not ours:  # all places are taken; or a plugin's engine has no such workers
            return None
        reader = self.readers[index] = _Reader(task, index)
        return reader

    def _ask_next(self, reader: _Reader) -> None:
        """Start the reader, or ask it the next question."""
        if not reader.asked or reader.is_dying:
            return None
        now = self.state.clock.now()
        if not reader.alive:
            if reader.generation >= _READERS:
                return self._settle_all_questions(reader, "its readers have ended")
            reader.generation += 1
            reader.alive, reader.ready, reader.until = True, False, now + _BOOT
            slot = reader.asked[0].slot
            spec = self.state.plan.worker_spec(reader.task.plan, slot.name, reader.index)
            try:
                reader.task.engine.start(replace(spec, previews_suspects=True), reader.generation)
            except SpawnError:
                reader.alive = False
                self._settle_all_questions(reader, "no reader could be started")
        elif reader.ready and not reader.asked[0].until:
            question = reader.asked[0]
            question.until = now + _LIMIT
            parts = tuple(self.dispatcher.granted_range(queue, piece) for queue, piece in question.suspects)
            reader.task.engine.send(reader.index, Grant(question.suspects[0][1].chunk.number, 0.0, parts))
        return None

    def handle_message(self, event: MessageReceived | WorkerExited) -> None:
        """Handle what a reader has said, or its death."""
        reader = self.readers[event.slot]
        if event.generation == reader.generation and reader.is_dying and isinstance(event, WorkerExited):
            reader.is_dying = False
            self._ask_next(reader)
        if event.generation != reader.generation or not reader.alive:
            return
        if isinstance(event, WorkerExited):
            reader.alive = False
            self._settle_question(
                reader, f"whatever unpickles it is {event.exit_status}" if reader.ready else "its reader has died"
            )
        elif isinstance(event.message, Ready):
            reader.ready = True
        elif isinstance(event.message, SuspectPreview) and reader.asked:
            reader.asked[0].shown.append(event.message.preview)
        elif isinstance(event.message, Reply):
            self._settle_question(reader, "")
        self._ask_next(reader)

    def next_time(self) -> float | None:
        """Return when a reader will have taken too long."""
        if not self.readers:
            return None
        asked = [reader for reader in self.readers.values() if reader.asked and not reader.is_dying]
        dues = [reader.asked[0].until or reader.until for reader in asked]
        return min(dues, default=None)

    def check_readers(self, now: float) -> None:
        """End the readers that take too long."""
        for reader in self.readers.values():
            if reader.asked and reader.alive and now >= (reader.asked[0].until or reader.until):
                reader.alive = False
                reader.is_dying = reader.task.engine.kill(reader.index)
                limit = _LIMIT if reader.asked[0].until else _BOOT
                self._settle_question(reader, f"showing it took more than {limit:g}s")
                self._ask_next(reader)

    def end_readers(self) -> None:
        """Let all deaths go their way: the run ends at once."""
        for reader in self.readers.values():
            self._settle_all_questions(reader, "the run ended at once")

    def _settle_all_questions(self, reader: _Reader, why: str) -> None:
        while reader.asked:
            self._settle_question(reader, why)

    def _settle_question(self, reader: _Reader, why: str) -> None:
        """Take what is known of the items now as all that will be known, and let the death go its way."""
        if reader.asked:
            question = reader.asked.popleft()
            question.slot.suspect_previews = question.previews(why)
            if why and len(question.suspects) == 1:
                self._fatal |= question.slot.suspect_previews
            self.worker_pool.on_death(question.event)
