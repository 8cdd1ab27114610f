"""What a task function may know of its run."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

from runner.error_text import describe
from runner.transport.messages import Progress
from runner.worker.failure import verdict

if TYPE_CHECKING:
    import logging

    from runner.transport.messages import Part
    from runner.worker.spec import Port, WorkerSpec

_QUARTER = 0.25


class WorkerContext:
    """`runner.Context`, for one worker; the bodies keep `number`, `index` and `attempt` up to date."""

    def __init__(self, spec: WorkerSpec, port: Port) -> None:
        self.task = spec.task
        self.worker = spec.name
        self.run = spec.run
        self.number = 0
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
        from runner.worker.task_log import logger

        return logger(self.task)

    @property
    def item_id(self) -> str:
        """The same name for the same item, however often it is given."""
        return f"{self.number}.{self.index}" if self.number else ""

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell people how far this worker is; told on at most four times a second."""
        now = time.monotonic()
        if now - self._told >= _QUARTER or done == total:
            self._told = now
            self._port.send(Progress(float(done), None if total is None else float(total)))

    def tried_again(self, error: Exception) -> bool:
        """Whether the item at hand is given again when it fails with this error."""
        return verdict(self._spec, error, describe(error), self.attempt) == "retry"

    def at(self, part: Part, index: int) -> None:
        """The function is about to be called for this item."""
        self.number, self.index, self.attempt = part.number, index, part.attempt + part.crashes

    def for_item(self, part: Part, index: int) -> WorkerContext:
        """A copy that stays with one item, for functions that run many at a time."""
        other = copy.copy(self)
        other.at(part, index)
        return other
