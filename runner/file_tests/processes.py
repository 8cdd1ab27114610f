"""A process and an empty folder for each test, several side by side; a test that hangs is ended with all it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import runner
from runner.file_tests.comparison import Difference
from runner.file_tests.execution import TestEnd, TestRequest
from runner.posix_only import require_posix
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from runner.model import FileTest

#: Seconds beyond its `timeout` after which a test is ended from outside: its plugins are loaded, its run drains.
_PATIENCE = 20.0
_LOOK_SECONDS = 0.02
_LAST_LINES = 20
#: Of what a test writes, so many bytes at the end are looked at.
_LAST_BYTES = 1 << 16
#: Runner is found where this process has it; the folder in which it was started is no place for modules.
_START = """import sys
sys.path[0:1] = []
sys.path.append(sys.argv.pop())
from runner.file_tests.execution import main
main()
"""


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """One test of a file, which is to be run: `number` in its file, `repetition` of `of`, from 1."""

    file: str
    number: int
    test: FileTest
    repetition: int = 1
    of: int = 1

    @property
    def name(self) -> str:
        """Its name, and which repetition it is if there are several."""
        return self.test.name + (f" ({self.repetition} of {self.of})" if self.of > 1 else "")

    @property
    def location(self) -> str:
        """Where it stands."""
        return f"{self.test.place.file}:{self.test.place.line}"


@dataclass(frozen=True, slots=True)
class TestResult:
    """How one test has ended. `last_lines` are the end of what its run wrote."""

    __test__ = False  # for pytest, which looks for classes of tests by their names

    planned: PlannedTest
    differences: tuple[Difference, ...]
    seconds: float
    balance: str = ""
    exit_code: int | None = None
    is_error: bool = False
    last_lines: tuple[str, ...] = field(default=())

    @property
    def has_passed(self) -> bool:
        """True if all was as expected."""
        return not self.differences


def run_tests(planned: Sequence[PlannedTest], jobs: int = 1) -> Generator[TestResult]:
    """Run tests, so many at a time, and yield each result as it comes; what is left is ended when this is closed."""
    require_posix()
    waiting, running = deque(planned), list[_TestProcess]()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, jobs):
                running.append(_TestProcess(waiting.popleft()))
            done = [each for each in running if each.has_ended()]
            for each in done:
                running.remove(each)
                yield each.close()
            if not done:
                time.sleep(_LOOK_SECONDS)
    finally:
        for each in running:
            each.close()


class _TestProcess:
    """The process of one test; the test's folder goes when it is closed."""

    def __init__(self, planned: PlannedTest) -> None:
        self._planned = planned
        self._began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="runner-test-"))
        Path(self._folder, "work").mkdir()
        lifeline, self._lifeline = os.pipe()  # closes when this process has gone, and the test goes with it
        request = TestRequest(planned.file, planned.number, str(self._folder), lifeline)
        place = str(Path(runner.__file__).resolve().parent.parent)
        command = [sys.executable, "-c", _START, msgspec.json.encode(request).decode(), place]
        env = {**os.environ, "NO_COLOR": "1"}
        with Path(self._folder, "output").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                pass_fds=[lifeline],
            )
        os.close(lifeline)

    def has_ended(self) -> bool:
        """Return True if it has, or has to: it is out of time."""
        if self._process.poll() is not None:
            return True
        return time.monotonic() - self._began > self._planned.test.timeout + _PATIENCE

    def close(self) -> TestResult:
        """End it if it goes on, and return how the test ended."""
        hangs = self._process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)
        end = self._read_end(hangs=hangs)
        lines = self._read_last_lines()
        shutil.rmtree(self._folder, ignore_errors=True)
        differences = tuple(Difference(*each) for each in end.differences)
        return TestResult(
            self._planned,
            differences,
            end.seconds or time.monotonic() - self._began,
            end.balance,
            end.exit_code,
            end.is_error,
            lines,
        )

    def _read_end(self, *, hangs: bool) -> TestEnd:
        try:
            return msgspec.json.decode(Path(self._folder, "end.json").read_bytes(), type=TestEnd)
        except (OSError, msgspec.MsgspecError):
            how = f"exited with code {self._process.returncode}"
            if self._process.returncode < 0:
                how = f"was killed by signal {-self._process.returncode}"
            got = "none: its process hung, and was ended" if hangs else f"its process {how} before the run had ended"
            return TestEnd((("time" if hangs else "end", "an end of the run", got, ""),))

    def _read_last_lines(self) -> tuple[str, ...]:
        with contextlib.suppress(OSError), Path(self._folder, "output").open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _LAST_BYTES))
            return tuple(output.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:])
        return ()
