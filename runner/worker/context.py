"""The context of a task function: what it may know of its run."""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any

from runner.error_text import describe_error
from runner.transport.messages import ProgressReport
from runner.worker.failure import decide_verdict
from runner.worker.given_items import saved_text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from runner.transport.messages import GrantedRange
    from runner.worker.spec import WorkerPort, WorkerSpec

_MIN_REPORT_INTERVAL = 0.25


class WorkerContext:
    """`runner.Context`, for one worker; the bodies keep `chunk_number`, `index` and `attempt` up to date."""

    def __init__(self, spec: WorkerSpec, port: WorkerPort) -> None:
        self.task = spec.task
        self.worker = spec.name
        self.run = spec.run
        self.retried_run = spec.retried_run
        self.chunk_number = 0
        self.index = 0
        self.attempt = 1
        self.stopping = False
        self.batched = spec.batch is not None
        self.durable = spec.durable
        self._spec = spec
        self._port = port
        self._reported_at = 0.0
        #: Keeps a place; None in a task with inputs.
        self.keep_place: Callable[[str], None] | None = None

    @property
    def log(self) -> logging.Logger:
        """Return the task's logger, made when it is first asked for: `logging` takes 4 ms to import."""
        import logging

        parent = logging.getLogger("runner.task")
        if not parent.handlers:
            # As `logging.lastResort` does, it writes to what standard error is then: thread workers share one process.
            handler = logging._StderrHandler()  # type: ignore[attr-defined]  # private, and the same since 3.2
            handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
            parent.addHandler(handler)
            parent.setLevel(logging.INFO)
            parent.propagate = False
        return parent.getChild(self.task)

    @property
    def node(self) -> str:
        """Return the name of the worker's machine; without agents that of the host, as an agent there would have it."""
        if self._spec.node:
            return self._spec.node
        import platform

        return platform.node().partition(".")[0] or "localhost"

    @property
    def item_id(self) -> str:
        """Return the same name for the same item, however often it is given."""
        return f"{self.chunk_number}.{self.index}" if self.chunk_number else ""

    @property
    def saved(self) -> Any:
        """Return the place that a worker of this name kept last before it died; None at the beginning."""
        text = self._spec.restart_point.saved
        return None if text is None else json.loads(text)

    def save(self, place: Any) -> None:
        """Keep a place to go on from. TypeError or ValueError unless it is at most 4 KiB of JSON."""
        if self.keep_place is None:
            raise RuntimeError("`save` is for tasks without inputs: it keeps the place from which the function goes on")
        if (text := saved_text(place)) is not None:
            self.keep_place(text)

    def progress(self, done: float, total: float | None = None) -> None:
        """Report the worker's progress; sent at most four times a second."""
        now = time.monotonic()
        if now - self._reported_at >= _MIN_REPORT_INTERVAL or done == total:
            self._reported_at = now
            self._port.send(ProgressReport(float(done), None if total is None else float(total)))

    def tried_again(self, error: Exception) -> bool:
        """Return True if the present item is given again when it fails with this error."""
        return decide_verdict(self._spec, error, describe_error(error), self.attempt) == "retry"

    def set_item(self, part: GrantedRange, index: int) -> None:
        """Note the item for which the function is about to be called."""
        self.chunk_number, self.index, self.attempt = part.chunk_number, index, part.attempt + part.crashes

    def copy_for_item(self, part: GrantedRange, index: int) -> WorkerContext:
        """Return a copy that stays with one item, for functions that run many at a time."""
        item_context = copy.copy(self)
        item_context.set_item(part, index)
        return item_context
