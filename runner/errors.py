"""Every exception of runner, each with the exit code that a command ends with when it escapes."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.config.problems import Problem


class RunnerError(Exception):
    """What runner says instead of a traceback; `exit_code` is how the command ends."""

    exit_code = 70


class UsageError(RunnerError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(RunnerError):
    """A file or a plugin is wrong; `problems` (of `config.problems`) holds every finding, sorted by place."""

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PluginError(ConfigError):
    """A task function could not be found or loaded; `code` and `hint` are those of the `Problem` it makes."""

    def __init__(self, message: str, code: str = "E301", hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


class SpawnError(RunnerError):
    """A worker could not be started: the machine is out of processes, threads, descriptors or memory."""

    exit_code = 1


class ResourceError(RunnerError):
    """The machine does not allow what the file asks for; nothing was started."""

    exit_code = 3


class UnsafeFolder(RunnerError):
    """Others decide what is in the folder where runs are kept: nothing is read there, and nothing written."""

    exit_code = 3


class Retry(Exception):
    """Raised by a task function: give me this item again, after `after` seconds (default: the back-off).

    It counts as an attempt; when `attempts` are used up the item is dead.

    >>> Retry(after=1.5).after
    1.5
    """

    def __init__(self, message: str = "the function asked for a retry", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Reject(Exception):
    """Raised by a task function: this item is dead at once, whatever `attempts` says.

    >>> str(Reject("no such page"))
    'no such page'
    """


class TimedOut(TimeoutError):
    """An item has exceeded its task's `timeout`."""


#: Raised by `Inbox.get` when the queue has ended: the standard library's own class where it has one (3.13).
if hasattr(queue, "ShutDown"):
    ShutDown: type[Exception] = queue.ShutDown
else:

    class ShutDown(Exception):  # type: ignore[no-redef]
        """The queue has ended and is empty."""


class TooLarge(RunnerError):
    """An item is larger than `max_item` allows."""


class NotPicklable(RunnerError):
    """An item cannot be sent to another process; the message names its type and the path to the culprit."""
