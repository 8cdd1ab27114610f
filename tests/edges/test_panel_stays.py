"""The live panel is whole in every frame that a terminal shows, whatever the tasks print meanwhile."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

from runner.report import panel as panels
from runner.report.panel import TerminalPanel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pyte = pytest.importorskip("pyte")

FILE = """
    title = "Lines"
    [queues]
    lines = { size = 8 }
    [tasks.make]
    mode = "thread"
    outputs = "lines"
    with = { rate = RATE, count = COUNT }
    [tasks.show]
    mode = "MODE"
    inputs = "lines"
"""
WORK = """
    import time
    from runner import task

    @task
    def make(rate: int, count: int):
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            yield number

    @task
    def show(number):
        print(f"line {number} " + ("é" * 20 if number % 7 else "x" * 150))
"""
#: What the panel is made of: its heading, the head of its table, two tasks and a queue.
WHOLE = ("Lines  ", "task ", "make ", "lines ", "show ")


def is_whole(shown: list[str]) -> bool:
    rows = [line for line in shown if line.strip()]
    last = rows[-len(WHOLE) :]
    return len(last) == len(WHOLE) and all(row.lstrip().startswith(word) for row, word in zip(last, WHOLE, strict=True))


def frames(path: Path, *, to_file: bool) -> tuple[int, int, list[str], int]:
    """Frames with the panel whole, frames after the first of them without, the last screen, and the exit code."""
    screen = pyte.HistoryScreen(80, 24, history=100_000)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with (path / "out").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", "run", "tasks.toml"],
            cwd=path,
            stdin=slave,
            stdout=file if to_file else slave,
            stderr=slave,
            env=environment,
        )
    os.close(slave)
    whole = torn = 0
    pending = 0  # frames without the panel of which none with it has come yet: the end takes it away for good
    try:
        while data := os.read(master, 4096):
            stream.feed(data)
            if is_whole(screen.display):
                whole, torn, pending = whole + 1, torn + pending, 0
            elif whole:
                pending += 1
    except OSError:  # the other end is closed
        pass
    code = process.wait(30)
    os.close(master)
    above = ["".join(line[at].data for at in range(80)).rstrip() for line in screen.history.top]
    return whole, torn, [*above, *(line.rstrip() for line in screen.display)], code


@pytest.mark.parametrize(
    ("rate", "count", "mode", "to_file"),
    [
        (200, 200, "thread", False),
        pytest.param(20, 40, "process", False, marks=pytest.mark.slow),
        pytest.param(2000, 3000, "process", False, marks=pytest.mark.slow),
        pytest.param(2000, 3000, "thread", True, marks=pytest.mark.slow),
    ],
)
def test_the_panel_is_whole_in_every_frame(project: Any, rate: int, count: int, mode: str, to_file: bool) -> None:
    file = FILE.replace("RATE", str(rate)).replace("COUNT", str(count)).replace("MODE", mode)
    made = project({"tasks.toml": file, "plugins/work.py": WORK})
    whole, torn, lines, code = frames(made.path, to_file=to_file)
    assert code == 0
    assert whole > 2
    assert torn == 0, f"{torn} of {whole + torn} frames"
    printed = (made.path / "out").read_text().splitlines() if to_file else lines
    assert sum(line.startswith("show | line ") for line in printed) == count, printed[-40:]


def shown(panel: TerminalPanel, printed: list[bytes], every: int) -> Iterator[list[str]]:
    """What a terminal shows that is given the bytes in pieces."""
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    stream.feed(panel.draw_sequence().replace(b"\n", b"\r\n"))
    rows = list(screen.display)
    for data in printed:
        given = panel.insert_above(data).replace(b"\n", b"\r\n")
        for at in range(0, len(given), every):
            stream.feed(given[at : at + every])
            for row in screen.dirty:
                rows[row] = "".join(screen.buffer[row][column].data for column in range(80))
            screen.dirty.clear()
            yield rows


@pytest.mark.parametrize("plant", [False, True])
def test_a_terminal_that_is_given_a_byte_at_a_time_shows_it_whole(monkeypatch: pytest.MonkeyPatch, plant: bool) -> None:
    if plant:  # as it was: taken away, and drawn again
        monkeypatch.setattr(panels, "terminal_rows", lambda *_: 0)
    monkeypatch.setattr(panels, "STOPPED_AFTER", 600.0)  # a terminal in Python is slow
    rows = [(f"{word}x", len(word) + 1) for word in WHOLE]
    panel = TerminalPanel(lambda *_: rows, -1)
    printed = [b"show | %d\n" % number * (number % 9) + b"y" * 200 + b"\n" for number in range(12)]
    last: list[str] = []
    whole = True
    for last in shown(panel, printed, 1):
        whole = whole and is_whole(last)
    assert whole != plant
    screen = [row.rstrip() for row in last if row.strip()]
    assert screen[-len(WHOLE) - 3 : -len(WHOLE)] == ["y" * 80, "y" * 80, "y" * 40]
