"""The printer, with real pipes and real children: everything arrives, whole, with its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.report.capture import ThreadCapture
from runner.report.printer import Printer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Screen:
    """A pipe in place of the terminal, read by a thread."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.data = b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while data := os.read(self.reader, 1 << 16):
            self.data += data

    def close(self) -> list[str]:
        os.close(self.writer)
        self.thread.join(10)
        os.close(self.reader)
        return self.data.decode().splitlines()


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    if screen.thread.is_alive():
        screen.close()


@pytest.fixture
def printer(screen: Screen) -> Iterator[Printer]:
    printer = Printer(screen.writer, screen.writer)
    yield printer
    printer.close()


def child(printer: Printer, name: str, code: str) -> tuple[subprocess.Popen[bytes], object]:
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer)
    os.close(writer)
    return process, printer.attach_pipe(name, reader, "out")


def finish(printer: Printer, screen: Screen, *children: tuple[subprocess.Popen[bytes], object]) -> list[str]:
    for process, source in children:
        process.wait(30)
        source.finish()  # type: ignore[attr-defined]
    printer.close()
    return screen.close()


def test_lines_of_many_writers_come_whole(printer: Printer, screen: Screen) -> None:
    code = "import sys\nfor i in range(3000): print('x' * (i % 50), i, flush=i % 7 == 0)"
    children = [child(printer, f"w{at}", code) for at in range(6)]
    lines = finish(printer, screen, *children)
    for at in range(6):
        mine = [line for line in lines if line.startswith(f"w{at} | ")]
        assert mine == [f"w{at} | {'x' * (i % 50)} {i}" for i in range(3000)]
    assert len(lines) == 18_000


def test_what_was_written_before_a_kill_comes_out(printer: Printer, screen: Screen) -> None:
    code = "import os, signal\nos.write(1, b'one\\ntwo\\nhalf')\nos.kill(os.getpid(), signal.SIGKILL)"
    assert finish(printer, screen, child(printer, "w", code)) == ["w | one", "w | two", "w | half"]
    assert printer.last_output("w") == "one\ntwo\nhalf\n"


def test_a_pipe_that_was_closed_is_not_full(printer: Printer, screen: Screen) -> None:
    """The supervisor asks while its worker is dead already, and what follows from that has still to come."""
    process, source = child(printer, "w", "print('last words')")
    assert finish(printer, screen, (process, source)) == ["w | last words"]
    assert source.full() is False  # type: ignore[attr-defined]


def test_a_grandchild_that_holds_the_pipe_holds_nobody_up(printer: Printer, screen: Screen) -> None:
    code = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)"
    )
    process, source = child(printer, "w", code)
    lines = finish(printer, screen, (process, source))
    os.kill(int(lines[0].split(" | ")[1]), signal.SIGKILL)


def test_c_code_and_children(printer: Printer, screen: Screen) -> None:
    code = (
        "import ctypes, os, subprocess\n"
        "from runner.transport import stdio\n"
        "stdio.redirect_worker_streams(os.dup(1), os.dup(2))\n"
        "print('python'); ctypes.CDLL(None).puts(b'from C')\n"
        "subprocess.run(['echo', 'child'])\n"
        "print('end', end='')\n"
        "stdio.flush_standard_streams()\n"
    )
    lines = finish(printer, screen, child(printer, "w", code))
    assert lines == ["w | python", "w | from C", "w | child", "w | end"]


def test_a_line_without_end_comes_in_parts(printer: Printer, screen: Screen) -> None:
    lines = finish(printer, screen, child(printer, "w", "import os\nfor _ in range(40): os.write(1, b'x' * 10000)"))
    assert all(line.startswith("w | x") for line in lines)
    assert sum(len(line) - 4 for line in lines) == 400_000


def test_messages_keep_their_place(printer: Printer, screen: Screen) -> None:
    printer.write("w", "before\n", "out")
    printer.print_message("said by runner")
    printer.write("w", "after\n", "out")
    assert finish(printer, screen) == ["w | before", "said by runner", "w | after"]


def test_control_sequences_and_progress_bars(printer: Printer, screen: Screen) -> None:
    printer.write("w", "a\x1b[2Jb\x1b[1mc\x1b]0;title\x07d\n10%\r50%\r100%\n", "out")
    assert finish(printer, screen) == ["w | ab\x1b[1mcd", "w | 100%"]


def test_a_closed_reader_is_remembered_and_drained() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    printer = Printer(writer, writer)
    for _ in range(1000):
        printer.write("w", "x" * 100 + "\n", "out")
    assert printer.flush()
    assert printer.write_error == "standard output: Broken pipe; 1,000 lines lost"
    printer.close()
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_remembered() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    printer = Printer(full, full)
    printer.write("w", "one\ntwo\n", "out")
    assert printer.flush()
    assert printer.write_error == "standard output: No space left on device; 2 lines lost"
    printer.close()
    os.close(full)


def test_a_slow_reader_makes_writers_wait_and_loses_nothing() -> None:
    reader, writer = os.pipe()
    printer = Printer(writer, writer)
    count, line = 3000, "y" * 1000
    writing = threading.Thread(target=lambda: [printer.write("w", f"{line}\n", "out") for _ in range(count)])
    writing.start()
    got = b""
    while got.count(b"\n") < count:
        got += os.read(reader, 1 << 16)
    writing.join(10)
    printer.close()
    os.close(writer)
    os.close(reader)
    assert got == f"w | {line}\n".encode() * count


def test_raw_output_is_left_alone(screen: Screen) -> None:
    printer = Printer(screen.writer, screen.writer, log="raw")
    printer.write("w", "a\rb\x1b[2J", "out")
    assert finish(printer, screen) == ["a", "b\x1b[2J"]


def in_thread(name: str, capture: ThreadCapture, deed: Callable[[], None]) -> None:
    def live() -> None:
        capture.name_thread(name)
        deed()

    thread = threading.Thread(target=live)
    thread.start()
    thread.join(10)


def test_thread_workers_speak_in_their_own_name(printer: Printer, screen: Screen) -> None:
    before = sys.stdout
    with ThreadCapture(printer) as capture:
        in_thread("one", capture, lambda: print("a", end=""))
        in_thread("two", capture, lambda: print("b", file=sys.stderr))
        in_thread("one", capture, lambda: print("c"))
        in_thread("two", capture, lambda: sys.stdout.buffer.write(b"bytes\n") and None)
    assert sys.stdout is before
    assert finish(printer, screen) == ["two | b", "one | ac", "two | bytes"]


def test_what_children_of_threads_print_is_captured(printer: Printer, screen: Screen) -> None:
    with ThreadCapture(printer) as capture:
        in_thread("only", capture, lambda: subprocess.run(["echo", "hello"], check=True) and None)
    assert finish(printer, screen) == ["only | hello"]
