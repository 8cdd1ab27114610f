"""What becomes of an item that has failed: again, dead, or dropped; and what of its task."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from msgspec import Struct

from runner import events
from runner.error_text import item_name
from runner.ledger import Again, Dead, Dropped
from runner.transport.messages import FailureText

if TYPE_CHECKING:
    from runner.error_text import ErrorText
    from runner.ledger import ItemRange, Verdict
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.run_state import TaskState, WorkerSlot


_WORDS = {Again: "again", Dropped: "dropped", Dead: "dead"}


class FailureEvidence(Struct, frozen=True):
    """What is known of an item's last failure, for its dead letter. `output`: what its worker printed last.

    Of a batch, `item` is the first one's id, and `previews` show each of its items.
    """

    text: FailureText
    preview: str
    output: str = ""
    item: str = ""
    previews: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The item in a sentence."""
        return item_name(self.preview, self.item)


class FailedItems(Struct, frozen=True):
    """`count` items that failed together. `retry`: the error may be tried again; `died`: their worker is gone."""

    error: ErrorText
    may_retry: bool
    count: int = 1
    preview: str = ""
    retry_after: float | None = None
    worker_died: bool = False
    #: Of a batch: of each item.
    previews: tuple[str, ...] = ()


class RetryPolicy:
    """Judges failures by what the file says of attempts and errors."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._random = random.Random(supervisor.plan.run_id)  # noqa: S311  jitter, not secrecy

    def judge_and_report(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> Verdict:
        """The verdict on a failed piece; people are told of it."""
        verdict = self.decide_verdict(slot, piece, fault)
        self.report_verdict(slot, piece, fault, verdict)
        return verdict

    def decide_verdict(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> Verdict:
        """The verdict on a failed piece."""
        task, config = slot.task, slot.task.plan.config
        attempt = piece.attempts + 1
        if fault.may_retry and attempt < config.attempts and not self.supervisor.shutdown.killing:
            until = self.supervisor.clock.now() + self.retry_pause(task, attempt, fault.retry_after)
            return Again(until, fault.count)
        if config.on_error == "skip":
            return Dropped(fault.count)
        return Dead(self._evidence(slot, piece, fault), fault.count)

    def _evidence(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> FailureEvidence:
        tries = piece.attempts + 1 + piece.crashes
        mask = self.supervisor.plan.secret_mask
        text = FailureText(mask(str(fault.error)), mask(fault.error.traceback), slot.task.name, slot.name, tries)
        output = self.supervisor.dead_letters.last_output(slot.name, fresh=fault.worker_died)
        return FailureEvidence(text, mask(fault.preview), mask(output), piece.item_id, tuple(map(mask, fault.previews)))

    def report_verdict(
        self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems, verdict: Verdict, count: int = 0
    ) -> None:
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

    def retry_pause(self, task: TaskState, attempt: int, asked: float | None = None) -> float:
        """Seconds before the next try: exponential, spread by jitter so that failures do not march in step."""
        if asked is not None:
            return max(0.0, asked)
        backoff = task.plan.config.backoff
        pause = min(backoff.max, backoff.first * backoff.factor ** min(attempt - 1, 100))
        return pause * (1 + backoff.jitter * (2 * self._random.random() - 1))

    def apply_on_error(self, task: TaskState, verdict: Verdict, error: object) -> None:
        """An item is given up for good: does the task, or the run, go on without it?"""
        if not isinstance(verdict, Dead):
            return
        what = f"{verdict.evidence.name} has failed: {error}"
        on_error = task.plan.config.on_error
        if on_error == "fail":
            self.supervisor.worker_pool.fail_task(task, what)
        elif on_error == "stop":
            self.supervisor.shutdown.stop_for_task(f"task `{task.name}`: {what}", failed=task)
