"""The live page: `runner top --web`, and the process that serves it for `runner run --web`.

It reads the record that the run writes, and draws it with the code of `runner report`: neither the drawing nor a slow
viewer costs the run anything.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from runner.cgroups import usable_cpus
from runner.errors import RunnerError, UsageError
from runner.report.page import render_page
from runner.report.page_server import PageServer
from runner.report.record import parse_record
from runner.store import records
from runner.store.records import find_holder
from runner.store.running_runs import watch_run

#: Seconds between two looks at the record, between two touches that keep the run writing it, for the last page to be
#: fetched by who was told of it, and for viewers to take the news of it.
LOOK_INTERVAL, TOUCH_INTERVAL, FETCH_SECONDS, LAST_SECONDS = 0.25, 2.0, 1.0, 5.0
#: Longest wait for the first record of a run, and for the page's process to say its address.
FIRST_PATIENCE = 60.0
#: So much of the machine's processor time goes into drawing at most: a page that takes long is drawn less often.
_MOST_SHARE = 0.01


def serve_page(folder: Path, server: PageServer, patience: float = 0.0) -> None:
    """Serve the page of a run until the run has ended, and its last page has been fetched.

    `patience`: how long, in seconds, to wait for a run that has not begun.
    """
    path, seen, page = folder / records.RECORD_FILE, 0, ""
    next_touch = next_drawing = 0.0
    until = time.monotonic() + patience
    while True:
        going = find_holder(folder) is not None  # before the look: the last record is whole
        if (now := time.monotonic()) >= next_touch and going:
            next_touch = now + TOUCH_INTERVAL
            watch_run(folder, record=True)
        changed = _changed_at(path)
        if changed != seen and (now >= next_drawing or not page):
            began = time.thread_time()
            seen, page = changed, _render(path, goes_on=going) or page
            next_drawing = now + (time.thread_time() - began) / _MOST_SHARE / usable_cpus()
            server.publish(page, last=False)
        if not going and (page or now >= until):
            break
        time.sleep(LOOK_INTERVAL)
    had_viewers = server.has_viewers
    server.publish(_render(path, goes_on=False) or page, last=True)
    if had_viewers:
        server.wait_for_viewers(LAST_SECONDS)
        time.sleep(FETCH_SECONDS)


def _changed_at(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def _render(path: Path, *, goes_on: bool) -> str:
    """Return the page of a record; empty where there is none that can be read."""
    try:
        return render_page(parse_record(records.read_record(path), str(path)), live=True, goes_on=goes_on)
    except RunnerError:
        return ""


class PageProcess:
    """The process that serves the page of a run that this process is about to begin; it ends with either."""

    def __init__(self, state: Path, run: str, port: int) -> None:
        command = [sys.executable, "-P", "-m", "runner.cli.live_page", str(state), run, str(port)]
        self._process = subprocess.Popen(  # noqa: S603  this Python, and a module of ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address.startswith("http:"):
            self.close()
            raise UsageError(self.address or "--web: the process that serves the page has ended at once")

    def close(self) -> None:
        """Let viewers take the last page, and end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_SECONDS + 2 * FETCH_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()  # what it ends with
        self._process.kill()
        self._process.wait()


def _end_with_parent() -> None:
    """End this process when the one that has started it ends, however that ends."""
    sys.stdin.read()
    os._exit(0)


def _main(state: str, run: str, port: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        server = PageServer(int(port))
    except UsageError as error:
        print(error, flush=True)
        return
    print(server.address, flush=True)
    serve_page(Path(state) / "runs" / run, server, FIRST_PATIENCE)
    server.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
