"""The logger behind `Context.log`."""

from __future__ import annotations

import logging
import sys


def task_logger(task: str) -> logging.Logger:
    """Return the logger of a task, which writes to standard error."""
    found = logging.getLogger(f"runner.task.{task}")
    parent = logging.getLogger("runner.task")
    if not parent.handlers:
        parent.addHandler(_StderrHandler())
        parent.setLevel(logging.INFO)
        parent.propagate = False
    return found


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to what standard error is at that moment: thread workers share one process."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
