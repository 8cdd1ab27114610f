"""Exceptions as text: they cross between processes as data, never as pickles."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from runner.transport.messages import ErrorText

_OURS = str(Path(__file__).resolve().parent.parent)
_MOST = 64 * 1024
_MOST_MESSAGE = 4 * 1024


def describe(error: BaseException) -> ErrorText:
    """An exception as data, with the user's own frames whole and none of runner's.

    Never raises, whatever the exception does in `__str__` or `__repr__`, and never returns more than 70 KB.

    >>> describe(ValueError("no")).message
    'no'
    """
    kind = type(error)
    names = [
        name for base in kind.__mro__ if base is not object for name in (base.__name__, f"{base.__module__}.{base.__qualname__}")
    ]
    return ErrorText(kind.__name__, _message(error), _trace(error), tuple(dict.fromkeys(names)))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as inner:  # noqa: BLE001  the user's __str__ may raise anything
        text = f"<its __str__ raised {type(inner).__name__}>"
    return shorten(text, _MOST_MESSAGE)


def _trace(error: BaseException) -> str:
    try:
        report = traceback.TracebackException(type(error), error, _without_ours(error.__traceback__), compact=True)
        return shorten("".join(report.format()), _MOST)
    except Exception as inner:  # noqa: BLE001  the user's __str__, __notes__ or __cause__ may raise anything
        frames = "".join(traceback.format_tb(_without_ours(error.__traceback__)))
        return f"{shorten(frames, _MOST)}{type(error).__name__}: <formatting it raised {type(inner).__name__}>\n"


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


def shorten(text: str, most: int) -> str:
    """At most about `most` characters, cut in the middle.

    >>> shorten("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaa\\n... 80 characters ...\\nbbbbbbbbbb'
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"
