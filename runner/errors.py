"""Every exception of runner, each with the exit code that a command ends with when it escapes."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.problems import Problem


class RunnerError(Exception):
    """An error that runner reports without a traceback; the command ends with `exit_code`."""

    exit_code = 70


class UsageError(RunnerError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(RunnerError):
    """A file or a plugin is wrong; `problems` (of `runner.problems`) holds all problems, sorted by place."""

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


class RetryRefused(RunnerError):
    """Dead items cannot be given to a new run; nothing was started."""

    exit_code = 3


class LedgerRefused(RunnerError):
    """The ledger of a durable run cannot be used: another process has it, or what is on disk is not what it was."""

    exit_code = 3


class RunRefused(RunnerError):
    """A run of the same file is going on, and the file says that there may be only one."""

    exit_code = 3


class Retry(Exception):
    """Raised by a task function: give me this item again, after `after` seconds (default: the back-off).

    `after` is a number of any type, or a `timedelta`; TypeError or ValueError for a value that is not a time. The retry
    counts as an attempt; when `attempts` are used up the item is dead.

    >>> from datetime import timedelta
    >>> Retry(after=1.5).after, Retry(after=timedelta(minutes=1)).after
    (1.5, 60.0)
    """

    after: float | None = None

    def __init__(self, message: str = "the function asked for a retry", *, after: Any = None) -> None:
        super().__init__(message)
        self.after = retry_delay(after)


#: A `Retry` may ask for a year at most: longer times are mistakes, and clocks have their limits.
_LONGEST = 366 * 24 * 3600.0


def retry_delay(after: Any) -> float | None:
    """Return a `Retry`'s delay in seconds, 0 for a time that has passed. TypeError or ValueError for anything else.

    >>> retry_delay(2), retry_delay(-1), retry_delay(None)
    (2.0, 0.0, None)
    """
    if after is None:
        return None
    try:
        seconds = _as_seconds(after)
    except OverflowError:
        seconds = float("inf")
    except Exception:  # noqa: BLE001  whatever its __float__ raises
        text = f"Retry(after=...) takes seconds, as a number or a timedelta, not a value of type {type(after).__name__}"
        raise TypeError(text) from None
    if not seconds <= _LONGEST:  # NaN too
        raise ValueError("Retry(after=...) takes a finite number of seconds, a year at most")
    return max(0.0, seconds)


def _as_seconds(after: Any) -> float:
    if isinstance(after, (str, bytes, bytearray, bool)):  # float("2") would be a number
        raise TypeError
    total = getattr(after, "total_seconds", None)  # a timedelta, of whichever library
    return float(total() if callable(total) else after)


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


class OtherItems(RunnerError):
    """A source that was called again, because its worker had died, gave other items than before."""

    exit_code = 1


class CommandLeft(BaseException):
    """Leaves all frames of the command, in a copy of its process, which goes on with `go_on`."""

    #: There is who catches it, and a copy of this process holds nothing but runner's.
    is_awaited: ClassVar[bool] = False

    def __init__(self, go_on: Callable[[], NoReturn]) -> None:
        super().__init__()
        self.go_on = go_on
