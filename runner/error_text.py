"""Exceptions as text: they cross between processes as data, never as pickles."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from runner.structs import dataclass
from runner.text import cut_middle, cut_text

_STANDARD = str(Path(traceback.__file__).resolve().parent)
_OURS = str(Path(__file__).resolve().parent)
#: Below a worker's own frames lie those of whoever started it.
_MACHINERY = (
    *(
        f"{_STANDARD}/{name}"
        for name in (
            "multiprocessing",
            "threading.py",
            "asyncio/runners.py",
            "asyncio/base_events.py",
            "asyncio/events.py",
        )
    ),
    '<string>", line 1 in <module>',
    "<frozen runpy>",
)
#: Frames that are never the user's, and what of the standard library calls the user's for us.
_NOBODYS = (f"{_OURS}/", "<frozen importlib", f"{_STANDARD}/importlib/")
_LEADING = tuple(f"{_STANDARD}/{name}" for name in ("contextlib.py", "asyncio/", "concurrent/futures/", "threading.py"))
_MOST = 64 * 1024
_MOST_MESSAGE = 4 * 1024


@dataclass(frozen=True, slots=True)
class ErrorText:
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
    kind = type(error)
    return ErrorText(kind.__name__, _message(error), _trace(error), class_names(kind))


def class_names(kind: type[BaseException]) -> tuple[str, ...]:
    """Return what `retry_on` may call an exception: its class and that class's bases, bare and qualified.

    >>> class_names(KeyError)[:4]
    ('KeyError', 'builtins.KeyError', 'LookupError', 'builtins.LookupError')
    """
    names = [
        name
        for base in kind.__mro__
        if base is not object
        for name in (base.__name__, f"{base.__module__}.{base.__qualname__}")
    ]
    return tuple(dict.fromkeys(names))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as inner:  # noqa: BLE001  the user's __str__ may raise anything
        text = f"<its __str__ raised {type(inner).__name__}>"
    return cut_middle(text, _MOST_MESSAGE)


def _trace(error: BaseException) -> str:
    try:
        report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _clean(report)
        return cut_middle("".join(report.format()), _MOST)
    except Exception as inner:  # noqa: BLE001  the user's __str__, __notes__ or __cause__ may raise anything
        frames = "".join(_users(traceback.extract_tb(error.__traceback__)).format())
        return f"{cut_middle(frames, _MOST)}{type(error).__name__}: <formatting it raised {type(inner).__name__}>\n"


def _clean(report: traceback.TracebackException) -> None:
    """Leave the user's frames alone in a report, and in all that it is chained to or made of."""
    look = [report]
    seen: set[int] = set()
    while look:
        each = look.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.stack = _users(each.stack)
            look += [more for more in (each.__cause__, each.__context__, *(each.exceptions or ())) if more]


def _users(frames: traceback.StackSummary) -> traceback.StackSummary:
    """Drop frames of runner's, the import system's, and the standard library's before the user's first."""
    kept = [frame for frame in frames if not frame.filename.startswith(_NOBODYS)]
    while kept and kept[0].filename.startswith(_LEADING):
        del kept[0]
    return traceback.StackSummary.from_list(kept)


def clean_stack(text: str) -> str:
    r"""Drop runner's frames, and the standard library's below them, from a stack as faulthandler writes it.

    A thread of which nothing remains is left out.

    >>> clean_stack('Thread 0x7f (most recent call first):\n  File "a.py", line 3 in f\n')
    'Thread 0x7f (most recent call first):\n  File "a.py", line 3 in f\n'
    """
    blocks: list[list[str]] = [[]]
    hidden = False
    for line in text.splitlines():
        if line.lstrip().startswith("File "):
            hidden = any(place in line for place in (_OURS, *_MACHINERY))
        elif not line.startswith(" "):
            hidden = False
            if line.startswith(("Thread ", "Current thread ")):
                blocks.append([])
        if not hidden:
            blocks[-1].append(line)
    told = [blocks[0], *(block for block in blocks[1:] if any(line.startswith(" ") for line in block))]
    lines = [line for block in told for line in block if line.strip()]
    return cut_middle("\n".join(lines) + "\n", _MOST) if lines else ""


def item_name(preview: str, item_id: str, most: int = 200) -> str:
    """Name an item in a sentence: its value first, and then its id.

    >>> item_name("'invoice-2'", "1.2"), item_name("", "1.2"), item_name("x" * 9, "1.2", 6)
    ("item 'invoice-2' (1.2)", 'item 1.2', 'item xxxxx… (1.2)')
    """
    if not preview or not item_id:
        return f"item {preview or item_id}" if preview or item_id else ""
    return f"item {cut_text(preview, most)} ({item_id})"


def describe_refusal(error: BaseException) -> str:
    """Say in a sentence what the machine has refused; empty: the error is something else."""
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
