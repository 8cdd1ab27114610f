"""Verdicts on items that have failed: again, dead, or dropped; and what becomes of their task."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from runner import events
from runner.ledger.leases import Again, Dead, Dropped
from runner.supervisor.dead_letters import FailureEvidence
from runner.transport.messages import FailureText

if TYPE_CHECKING:
    from runner.ledger.leases import Verdict
    from runner.ledger.subscriptions import ItemRange
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.shutdown import Shutdown
    from runner.transport.messages import Failure


_WORDS = {Again: "again", Dropped: "dropped", Dead: "dead"}


class RetryPolicy:
    """Judges failures by what the file says of attempts and errors."""

    def __init__(self, state: RunState, shutdown: Shutdown) -> None:
        self.state = state
        self.shutdown = shutdown
        self._random = random.Random(state.plan.run_id)  # noqa: S311  jitter, not secrecy

    def decide_verdict(
        self, slot: WorkerSlot, piece: ItemRange, failure: Failure, *, worker_died: bool = False
    ) -> Verdict:
        """Return the verdict on items that failed together; the failure says whether it may be tried again."""
        task, attempt = slot.task, piece.attempts + 1
        if failure.verdict == "retry" and not self.state.killing:
            until = self.state.clock.now() + self.retry_pause(task, attempt, failure.retry_after)
            return Again(until, failure.count)
        if task.plan.config.on_error == "skip":
            return Dropped(failure.count)
        mask, error = self.state.plan.secret_mask, failure.error
        text = FailureText(mask(str(error)), mask(error.traceback), task.name, slot.name, attempt + piece.crashes)
        output = mask(self.state.dead_letters.last_output(slot.name, fresh=worker_died))
        previews = tuple(map(mask, failure.previews))
        evidence = FailureEvidence(text, mask(failure.preview), output, piece.item_id, previews, failure.kept)
        return Dead(evidence, failure.count)

    def report_verdict(
        self, slot: WorkerSlot, piece: ItemRange, failure: Failure, verdict: Verdict, count: int
    ) -> None:
        """Tell people of a verdict on `count` items, of which this is the first."""
        self.state.emit(
            events.ItemFailed(
                at=self.state.clock.now(),
                task=slot.task.name,
                worker=slot.name,
                item=piece.item_id,
                error=str(failure.error),
                traceback=failure.error.traceback,
                attempt=piece.attempts + 1 + piece.crashes,
                verdict=_WORDS[type(verdict)],
                preview=failure.preview,
                count=count,
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
