"""Lines that stay at the bottom of a terminal while others scroll above them.

The cursor rests below them, at the left, and is never hidden: whatever ends the program leaves a usable terminal.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from runner.text import display_width

if TYPE_CHECKING:
    from collections.abc import Callable

    #: The lines, and how many columns each takes, for a terminal of so many columns and lines.
    DrawFrame = Callable[[int, int], list[tuple[str, int]]]

#: Seconds between two drawings.
DRAW_INTERVAL = 0.5
#: Nothing was drawn for so many seconds: the run was stopped (Ctrl-Z) meanwhile.
STOPPED_AFTER = 3.0


#: Colours, which take no room; and what takes a column each.
_COLOR = re.compile(rb"\x1b\[[0-9;]*m")
_SIMPLE = re.compile(rb"[ -~]*\n")


def terminal_rows(line: bytes, columns: int) -> int:
    r"""Return the number of rows of a terminal that a line takes; 0: it cannot be told.

    >>> terminal_rows(b"\x1b[36mpa\x1b[0m | loaf\n", 5), terminal_rows(b"\n", 80), terminal_rows(b"\t\n", 80)
    (2, 1, 0)
    """
    text = _COLOR.sub(b"", line)
    if _SIMPLE.fullmatch(text):
        return max(1, -(-(len(text) - 1) // columns))
    shown = text.decode("utf-8", "replace").removesuffix("\n")
    # A character of two columns may be cut off at the end of a row: where a line breaks cannot be told.
    return int(shown.isprintable() and display_width(shown) <= columns)


class TerminalPanel:
    """Draws a frame on the terminal `fd`. All it gives are bytes for whoever writes there."""

    def __init__(self, frame: DrawFrame, fd: int) -> None:
        self._frame = frame
        self._fd = fd
        self._drawn: list[int] = []
        self._text = b""
        self._next = self._at = time.monotonic()

    def seconds_until_draw(self) -> float:
        """Return the seconds until it is to be drawn again."""
        return max(0.0, self._next - time.monotonic())

    def erase_sequence(self) -> bytes:
        """Return the bytes that take the panel away."""
        if not self._is_there():
            return b""
        rows = self._drawn_rows(self._terminal_size()[0])
        self._drawn = []
        return b"\r\x1b[%dA\x1b[J" % rows

    def insert_above(self, data: bytes) -> bytes:
        """Return the bytes that print whole lines above the panel, which stays where it is.

        Room is made below it, the panel is moved there as it is, and the lines are written into the gap: so it is whole
        at every moment, however the terminal is given these bytes. Where it cannot be known how many rows the lines
        take, the panel is taken away and drawn again in the same bytes.
        """
        if not self._is_there():
            return data
        columns, lines = self._terminal_size()
        rows = self._drawn_rows(columns)
        most = lines - rows - 1
        written = data.splitlines(keepends=True)
        taken = [terminal_rows(line, columns) for line in written]
        if most < 1 or rows != len(self._drawn) or not all(0 < each <= most for each in taken):
            return b"\r\x1b[%dA\x1b[J" % rows + data + self._text
        made, text, gap = b"", b"", 0
        for line, each in [*zip(written, taken, strict=True), (b"", most)]:
            if gap + each > most:
                made += b"\n" * gap + b"\x1b[%dA\x1b[%dL" % (rows + gap, gap) + text + b"\r\x1b[%dB" % rows
                text, gap = b"", 0
            text, gap = text + line, gap + each
        return made

    def draw_sequence(self) -> bytes:
        """Return the bytes that draw the panel in its place, over the old one if that is there."""
        columns, lines = self._terminal_size()
        self._next = time.monotonic() + DRAW_INTERVAL
        frame = self._frame(columns, lines)
        up = b"\r\x1b[%dA" % self._drawn_rows(columns) if self._is_there() else b""
        self._drawn = [width for _, width in frame]
        self._at = time.monotonic()
        self._text = "".join(f"{line}\x1b[K\n" for line, _ in frame).encode("utf-8", "replace") + b"\x1b[J"
        return up + self._text

    def _is_there(self) -> bool:
        """Return True if what was drawn is still there: not when the run was stopped, and a shell was used."""
        if time.monotonic() - self._at > STOPPED_AFTER:
            self._drawn = []
        return bool(self._drawn)

    def _drawn_rows(self, columns: int) -> int:
        """Count the rows that the drawn lines take: a terminal that has become narrower has wrapped them."""
        return sum(max(1, -(-width // max(1, columns))) for width in self._drawn)

    def _terminal_size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24
