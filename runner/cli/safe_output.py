"""The streams that commands print to: foreign text reaches a terminal only as `text.printable_text` shows it.

It stands at the boundary, so that no command can forget it; parts of a command that write bytes for programs, and what
is not ours (the output of tasks, commands of plugins), go past it.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from runner.text import printable_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class SafeStream:
    """Takes the place of a text stream; `streams` says what becomes of letters that its encoding does not have."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write it, harmless."""
        self.stream.write(printable_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """While it is entered, what is printed is harmless."""
    with _replaced_streams(*(stream if stream is None else SafeStream(stream) for stream in (sys.stdout, sys.stderr))):
        yield


@contextlib.contextmanager
def unescaped_output() -> Iterator[None]:
    """While it is entered, what is printed is not ours, and stays as it is."""
    with _replaced_streams(
        *(stream.stream if isinstance(stream, SafeStream) else stream for stream in (sys.stdout, sys.stderr))
    ):
        yield


@contextlib.contextmanager
def _replaced_streams(out: Any, err: Any) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
