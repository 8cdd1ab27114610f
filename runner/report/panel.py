"""Lines that stay at the bottom of a terminal while others scroll above them.

The cursor rests below them, at the left, and is never hidden: whatever ends the program leaves a usable terminal.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    #: The lines, and how many columns each takes, for a terminal of so many columns and lines.
    Frame = Callable[[int, int], list[tuple[str, int]]]

#: Seconds between two drawings, and from what was printed above to the next drawing.
EVERY, AFTER_OUTPUT = 0.5, 0.1


class Panel:
    """Draws a frame on the terminal `fd`. All it gives are bytes for whoever writes there."""

    def __init__(self, frame: Frame, fd: int) -> None:
        self._frame = frame
        self._fd = fd
        self._drawn: list[int] = []
        self._next = time.monotonic()

    def patience(self) -> float:
        """Seconds until it is to be drawn again."""
        return max(0.0, self._next - time.monotonic())

    def erase(self) -> bytes:
        """Before something is printed: what takes the panel away."""
        if not self._drawn:
            return b""
        rows = self._rows(self._size()[0])
        self._drawn = []
        self._next = min(self._next, time.monotonic() + AFTER_OUTPUT)
        return b"\r\x1b[%dA\x1b[J" % rows

    def draw(self) -> bytes:
        """The panel in its place, over the old one if that is there."""
        columns, lines = self._size()
        self._next = time.monotonic() + EVERY
        frame = self._frame(columns, lines)
        up = b"\r\x1b[%dA" % self._rows(columns) if self._drawn else b""
        self._drawn = [width for _, width in frame]
        text = "".join(f"{line}\x1b[K\n" for line, _ in frame)
        return up + text.encode("utf-8", "replace") + b"\x1b[J"

    def _rows(self, columns: int) -> int:
        """Rows that the drawn lines take: a terminal that has become narrower has wrapped them."""
        return sum(max(1, -(-width // max(1, columns))) for width in self._drawn)

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24
