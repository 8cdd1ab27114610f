"""What a task function may know of its run."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

from runner.error_text import describe_error
from runner.transport.messages import ProgressReport
from runner.worker.failure import decide_verdict

if TYPE_CHECKING:
    import logging

    from runner.transport.messages import GrantedRange
    from runner.worker.spec import WorkerPort, WorkerSpec

_QUARTER = 0.25


class WorkerContext:
    """`runner.Context`, for one worker; the bodies keep `number`, `index` and `attempt` up to date."""

    def __init__(self, spec: WorkerSpec, port: WorkerPort) -> None:
        self.task = spec.task
        self.worker = spec.name
        self.run = spec.run
        self.chunk_number = 0
        self.index = 0
        self.attempt = 1
        self.stopping = False
        self.batched = spec.batch is not None
        self._spec = spec
        self._port = port
        self._told = 0.0

    @property
    def log(self) -> logging.Logger:
        """The task's logger, made when it is first asked for: `logging` takes 4 ms to import."""
        from runner.worker.task_log import task_logger

        return task_logger(self.task)

    @property
    def item_id(self) -> str:
        """The same name for the same item, however often it is given."""
        return f"{self.chunk_number}.{self.index}" if self.chunk_number else ""

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell people how far this worker is; told on at most four times a second."""
        now = time.monotonic()
        if now - self._told >= _QUARTER or done == total:
            self._told = now
            self._port.send(ProgressReport(float(done), None if total is None else float(total)))

    def tried_again(self, error: Exception) -> bool:
        """Whether the item at hand is given again when it fails with this error."""
        return decide_verdict(self._spec, error, describe_error(error), self.attempt) == "retry"

    def set_item(self, part: GrantedRange, index: int) -> None:
        """The function is about to be called for this item."""
        self.chunk_number, self.index, self.attempt = part.chunk_number, index, part.attempt + part.crashes

    def copy_for_item(self, part: GrantedRange, index: int) -> WorkerContext:
        """A copy that stays with one item, for functions that run many at a time."""
        other = copy.copy(self)
        other.set_item(part, index)
        return other
