"""What becomes of an item that has failed: again, dead, or dropped; and what of its task."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from runner import events
from runner.error_text import item_name
from runner.ledger import Again, Dead, Dropped
from runner.structs import dataclass
from runner.transport.messages import LetterText

if TYPE_CHECKING:
    from runner.error_text import ErrorText
    from runner.ledger import Piece, Verdict
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import Slot, TaskState


_WORDS = {Again: "again", Dropped: "dropped", Dead: "dead"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an item's last failure, for its dead letter. `output`: what its worker printed last.

    Of a batch, `item` is the first one's id, and `previews` show each of its items.
    """

    text: LetterText
    preview: str
    output: str = ""
    item: str = ""
    previews: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The item in a sentence."""
        return item_name(self.preview, self.item)


@dataclass(frozen=True, slots=True)
class Fault:
    """`count` items that failed together. `retry`: the error may be tried again; `died`: their worker is gone."""

    error: ErrorText
    retry: bool
    count: int = 1
    preview: str = ""
    after: float | None = None
    died: bool = False
    #: Of a batch: of each item.
    previews: tuple[str, ...] = ()


class Verdicts:
    """Judges failures by what the file says of attempts and errors."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._random = random.Random(supervisor.plan.run_id)  # noqa: S311  jitter, not secrecy

    def judge(self, slot: Slot, piece: Piece, fault: Fault) -> Verdict:
        """The verdict on a failed piece; people are told of it."""
        verdict = self.decide(slot, piece, fault)
        self.tell(slot, piece, fault, verdict)
        return verdict

    def decide(self, slot: Slot, piece: Piece, fault: Fault) -> Verdict:
        """The verdict on a failed piece."""
        task, config = slot.task, slot.task.plan.config
        attempt = piece.attempts + 1
        if fault.retry and attempt < config.attempts and not self.supervisor.ends.dying:
            until = self.supervisor.clock.now() + self.pause(task, attempt, fault.after)
            return Again(until, fault.count)
        if config.on_error == "skip":
            return Dropped(fault.count)
        return Dead(self._evidence(slot, piece, fault), fault.count)

    def _evidence(self, slot: Slot, piece: Piece, fault: Fault) -> Evidence:
        tries = piece.attempts + 1 + piece.crashes
        mask = self.supervisor.plan.mask
        text = LetterText(mask(str(fault.error)), mask(fault.error.traceback), slot.task.name, slot.name, tries)
        output = self.supervisor.letters.last_output(slot.name, fresh=fault.died)
        return Evidence(text, mask(fault.preview), mask(output), piece.item_id, tuple(map(mask, fault.previews)))

    def tell(self, slot: Slot, piece: Piece, fault: Fault, verdict: Verdict, count: int = 0) -> None:
        """Tell people of a verdict; `count`: on so many items, of which this is the first."""
        self.supervisor.emit(
            events.ItemFailed(
                at=self.supervisor.clock.now(),
                task=slot.task.name,
                worker=slot.name,
                item=piece.item_id,
                error=str(fault.error),
                traceback=fault.error.traceback,
                attempt=piece.attempts + 1 + piece.crashes,
                verdict=_WORDS[type(verdict)],
                preview=fault.preview,
                count=count or fault.count,
            )
        )

    def pause(self, task: TaskState, attempt: int, asked: float | None = None) -> float:
        """Seconds before the next try: exponential, spread by jitter so that failures do not march in step."""
        if asked is not None:
            return max(0.0, asked)
        backoff = task.plan.config.backoff
        pause = min(backoff.max, backoff.first * backoff.factor ** min(attempt - 1, 100))
        return pause * (1 + backoff.jitter * (2 * self._random.random() - 1))

    def after(self, task: TaskState, verdict: Verdict, error: object) -> None:
        """An item is given up for good: does the task, or the run, go on without it?"""
        if not isinstance(verdict, Dead):
            return
        what = f"{verdict.evidence.name} has failed: {error}"
        on_error = task.plan.config.on_error
        if on_error == "fail":
            self.supervisor.staff.fail(task, what)
        elif on_error == "stop":
            self.supervisor.ends.stop_for(f"task `{task.name}`: {what}", failed=task)
