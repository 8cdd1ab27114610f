"""Verdicts on items that have failed: again, dead, or dropped; and what becomes of their task."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from runner import events
from runner.error_text import item_name
from runner.ledger import Again, Dead, Dropped
from runner.structs import dataclass
from runner.transport.messages import FailureText

if TYPE_CHECKING:
    from runner.error_text import ErrorText
    from runner.ledger import ItemRange, Verdict
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.shutdown import Shutdown


_WORDS = {Again: "again", Dropped: "dropped", Dead: "dead"}


@dataclass(frozen=True, slots=True)
class FailureEvidence:
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
        """Return the item's name in a sentence."""
        return item_name(self.preview, self.item)


@dataclass(frozen=True, slots=True)
class FailedItems:
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

    def __init__(self, state: RunState, shutdown: Shutdown) -> None:
        self.state = state
        self.shutdown = shutdown
        self._random = random.Random(state.plan.run_id)  # noqa: S311  jitter, not secrecy

    def judge_and_report(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> Verdict:
        """Return the verdict on items that failed together, and tell people of it."""
        verdict = self.decide_verdict(slot, piece, fault)
        self.report_verdict(slot, piece, fault, verdict)
        return verdict

    def decide_verdict(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> Verdict:
        """Return the verdict on items that failed together."""
        task, config = slot.task, slot.task.plan.config
        attempt = piece.attempts + 1
        if fault.may_retry and attempt < config.attempts and not self.state.killing:
            until = self.state.clock.now() + self.retry_pause(task, attempt, fault.retry_after)
            return Again(until, fault.count)
        if config.on_error == "skip":
            return Dropped(fault.count)
        return Dead(self._failure_evidence(slot, piece, fault), fault.count)

    def _failure_evidence(self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems) -> FailureEvidence:
        tries = piece.attempts + 1 + piece.crashes
        mask = self.state.plan.secret_mask
        text = FailureText(mask(str(fault.error)), mask(fault.error.traceback), slot.task.name, slot.name, tries)
        output = self.state.dead_letters.last_output(slot.name, fresh=fault.worker_died)
        return FailureEvidence(text, mask(fault.preview), mask(output), piece.item_id, tuple(map(mask, fault.previews)))

    def report_verdict(
        self, slot: WorkerSlot, piece: ItemRange, fault: FailedItems, verdict: Verdict, count: int = 0
    ) -> None:
        """Tell people of a verdict; `count`: on so many items, of which this is the first."""
        self.state.emit(
            events.ItemFailed(
                at=self.state.clock.now(),
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
        """Return the seconds before the next try: exponential, with jitter, so that failures do not march in step."""
        if asked is not None:
            return max(0.0, asked)
        backoff = task.plan.config.backoff
        pause = min(backoff.max, backoff.first * backoff.factor ** min(attempt - 1, 100))
        return pause * (1 + backoff.jitter * (2 * self._random.random() - 1))

    def apply_on_error(self, task: TaskState, verdict: Verdict, error: object) -> None:
        """Fail the task, or stop the run, if the file does not want it to go on without an item that is given up."""
        if isinstance(verdict, Dead) and task.plan.config.on_error in ("fail", "stop"):
            self.shutdown.fail_or_stop_run(task, f"{verdict.evidence.name} has failed: {error}")
