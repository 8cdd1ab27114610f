"""Exceptions as text: they cross between processes as data, never as pickles."""

from __future__ import annotations

import errno
import signal
import traceback
from pathlib import Path

from msgspec import Struct

from runner.text import cut_middle, cut_text

_STDLIB_FOLDER = str(Path(traceback.__file__).resolve().parent)
_RUNNER_FOLDER = str(Path(__file__).resolve().parent)
#: Below a worker's own frames lie those of its starter.
_BASE_FRAMES = (
    f"{_STDLIB_FOLDER}/multiprocessing",
    f"{_STDLIB_FOLDER}/threading.py",
    *(f"{_STDLIB_FOLDER}/asyncio/{name}.py" for name in ("runners", "base_events", "events")),
    '<string>", line 1 in <module>',
    "<frozen runpy>",
)
#: Frames that are never the user's, and what of the standard library calls the user's for us.
_HIDDEN_FRAMES = (f"{_RUNNER_FOLDER}/", "<frozen importlib", f"{_STDLIB_FOLDER}/importlib/")
_LEADING_FRAMES = tuple(
    f"{_STDLIB_FOLDER}/{name}" for name in ("contextlib.py", "asyncio/", "concurrent/futures/", "threading.py")
)
_MAX_TRACEBACK = 64 * 1024
_MAX_MESSAGE = 4 * 1024


class ErrorText(Struct, frozen=True, array_like=True):
    """An exception as data. `names` are its class and that class's bases, bare and qualified, for `retry_on`."""

    type: str
    message: str
    traceback: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def describe_error(error: BaseException) -> ErrorText:
    """Return an exception as data, with the user's own frames whole and none of runner's.

    Never raises, whatever the exception does in `__str__` or `__repr__`, and never returns more than 70 KB.

    >>> describe_error(ValueError("no")).message
    'no'
    """
    error_type = type(error)
    return ErrorText(error_type.__name__, _error_message(error), _format_traceback(error), class_names(error_type))


def class_names(error_type: type[BaseException]) -> tuple[str, ...]:
    """Return the names that `retry_on` may use for an exception: its class and its bases, bare and qualified.

    >>> class_names(KeyError)[:4]
    ('KeyError', 'builtins.KeyError', 'LookupError', 'builtins.LookupError')
    """
    names = [
        name
        for base in error_type.__mro__
        if base is not object
        for name in (base.__name__, f"{base.__module__}.{base.__qualname__}")
    ]
    return tuple(dict.fromkeys(names))


def _error_message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as inner:  # noqa: BLE001  the user's __str__ may raise anything
        text = f"<its __str__ raised {type(inner).__name__}>"
    return cut_middle(text, _MAX_MESSAGE)


def _format_traceback(error: BaseException) -> str:
    try:
        report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _clean_report(report)
        return cut_middle("".join(report.format()), _MAX_TRACEBACK)
    except Exception as inner:  # noqa: BLE001  the user's __str__, __notes__ or __cause__ may raise anything
        frames = "".join(_user_frames(traceback.extract_tb(error.__traceback__)).format())
        problem = f"{type(error).__name__}: <formatting it raised {type(inner).__name__}>\n"
        return cut_middle(frames, _MAX_TRACEBACK) + problem


def _clean_report(report: traceback.TracebackException) -> None:
    """Leave the user's frames alone in a report, and in all that it is chained to or made of."""
    look = [report]
    seen: set[int] = set()
    while look:
        each = look.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.stack = _user_frames(each.stack)
            look += [more for more in (each.__cause__, each.__context__, *(each.exceptions or ())) if more]


def _user_frames(frames: traceback.StackSummary) -> traceback.StackSummary:
    """Remove frames of runner's and the import system's, and the standard library's before the user's first."""
    kept = [frame for frame in frames if not frame.filename.startswith(_HIDDEN_FRAMES)]
    while kept and kept[0].filename.startswith(_LEADING_FRAMES):
        del kept[0]
    return traceback.StackSummary.from_list(kept)


def clean_stack(text: str) -> str:
    r"""Remove runner's frames, and the standard library's below them, from a stack that faulthandler wrote.

    A thread of which nothing remains is left out.

    >>> clean_stack('Thread 0x7f (most recent call first):\n  File "a.py", line 3 in f\n')
    'Thread 0x7f (most recent call first):\n  File "a.py", line 3 in f\n'
    """
    blocks: list[list[str]] = [[]]
    hidden = False
    for line in text.splitlines():
        if line.lstrip().startswith("File "):
            hidden = any(place in line for place in (_RUNNER_FOLDER, *_BASE_FRAMES))
        elif not line.startswith(" "):
            hidden = False
            if line.startswith(("Thread ", "Current thread ")):
                blocks.append([])
        if not hidden:
            blocks[-1].append(line)
    kept_blocks = [blocks[0], *(block for block in blocks[1:] if any(line.startswith(" ") for line in block))]
    lines = [line for block in kept_blocks for line in block if line.strip()]
    return cut_middle("\n".join(lines) + "\n", _MAX_TRACEBACK) if lines else ""


def item_name(preview: str, item_id: str, max_length: int = 200) -> str:
    """Name an item in a sentence: its value first, and then its id.

    >>> item_name("'invoice-2'", "1.2"), item_name("", "1.2"), item_name("x" * 9, "1.2", 6)
    ("item 'invoice-2' (1.2)", 'item 1.2', 'item xxxxx… (1.2)')
    """
    if not preview or not item_id:
        return f"item {preview or item_id}" if preview or item_id else ""
    return f"item {cut_text(preview, max_length)} ({item_id})"


def describe_refusal(error: BaseException) -> str:
    """Say in a sentence what the machine has refused; return "" if the error is something else."""
    if isinstance(error, MemoryError):
        return "this machine gives no more memory (see `ulimit -v` and the limits of the container)"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "this machine allows no more threads (see `ulimit -u` and the limits of the container)"
    if not isinstance(error, OSError):
        return ""
    where = f"{error.filename}: " if error.filename else ""
    hint = {
        errno.EMFILE: " (see `ulimit -n`)",
        errno.EFBIG: " (see `ulimit -f`)",
        errno.EAGAIN: " (see `ulimit -u` and the limits of the container)",
        errno.ENOMEM: " (see `ulimit -v` and the limits of the container)",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{hint}"


def signal_name(number: int) -> str:
    """Return the name of a signal, or its number if Python has no name for it.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
